"""Plots of a training run and of an evaluation, as PNG files.

Drawn on matplotlib's Figure: pyplot's state is shared between threads and asks for a screen.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog import backend, files
from catdog.errors import UserError
from catdog.files import printable
from catdog.scores import fonts, metrics, tables

logger = logging.getLogger(__name__)

BLUE, ORANGE, GREY, INK, LINE = "#1f5fa8", "#e07b39", "#52606d", "#1f2933", "#9aa5b1"
COLORS = (BLUE, ORANGE, "#2a9d6f", "#b5446e", "#7a5cc0", "#8c6d1f", "#3aa6b9", GREY)
STYLE = {  # of all plots, on top of matplotlib's own defaults
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.prop_cycle": f"cycler(color={[*COLORS]})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 11,
    "grid.color": "#e4e7eb",
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 4,
    "text.parse_math": False,  # two dollar signs in a name do not make it a formula
    "xtick.color": GREY,
    "ytick.color": GREY,
}
FEW = 20  # epochs; the points of shorter curves are marked: a line through one would be invisible
LONGEST_NAME = 14  # characters
NAMED_CLASSES = 30  # the names of more would overlap


@contextlib.contextmanager
def picture(path: Path, families: Sequence[str] = (), **options) -> Iterator:
    """Yield a matplotlib Figure in the style of all plots, written to `path` at the end.

    What cannot be drawn costs a warning and no more: `path` is then as it was.

    Args:
        families: of fonts for the characters that the usual one lacks.
        options: of the Figure.
    """
    backend.import_matplotlib()
    import matplotlib.style
    from matplotlib.figure import Figure

    style = STYLE | {"font.family": ["DejaVu Sans", *families]}
    with matplotlib.style.context(style, after_reset=True):
        try:
            figure = Figure(layout="constrained", **options)
            figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
            yield figure
            with files.atomic_file(Path(path)) as temporary:
                figure.savefig(temporary, format="png", backend="agg")
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            logger.warning(f"{Path(path).name} cannot be drawn: {reason}")


def short(name: str, classes: Sequence[str]) -> str:
    """Return the name of a class for a plot, of at most 14 characters.

    It is the number of the class, from 1, if no installed font has the characters of its name.
    """
    name = fonts.name_or_number(printable(name), [*classes, name].index(name) + 1)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _say_missing(axis, text):
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", color=GREY)
    axis.set_yticks([])


# --- A training run -------------------------------------------------------------------------------


def plot_history(rows: Sequence[dict], path: Path) -> None:
    """Draw the history of a training run as a PNG.

    Args:
        rows: of `history.csv`, of numbers or their text; any may be missing, empty or NaN.
    """
    with picture(path, figsize=(12, 7), dpi=120) as figure:
        axes = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True)
        for axis, key, title, label, plot in zip(
            axes.flat,
            ("accuracy", "loss", "learning_rate", "image_size"),
            ("Accuracy", "Loss", "Learning rate", "Image size"),
            ("accuracy", "nats per photo", "step size", "pixels"),
            (_plot_curves, _plot_curves, _plot_steps, _plot_steps),
            strict=True,
        ):
            axis.set(title=title, ylabel=label, xlabel="epoch" if plot is _plot_steps else "")
            if not plot(axis, rows, key):
                _say_missing(axis, "not recorded")
            elif plot is _plot_curves:
                axis.legend()
        figure.align_ylabels()


def _series(rows, key):
    """Return the epochs `(m,)` and values `(m,)` of the rows that have a finite value of `key`."""
    epochs = [row.get("epoch", i) for i, row in enumerate(rows, start=1)]
    values = [np.nan if row.get(key) in (None, "") else row[key] for row in rows]
    pairs = np.array([epochs, values], float)
    return pairs[:, np.isfinite(pairs).all(0)]


def _plot_curves(axis, rows, key):
    """Draw the training and the validation curve; return what they show as a list of text."""
    from matplotlib.ticker import MaxNLocator

    text, best_of = (tables.percent, np.argmax) if key == "accuracy" else (tables.number, np.argmin)
    found = []
    for name, column, color in (("training", key, ORANGE), ("validation", f"val_{key}", BLUE)):
        epochs, values = _series(rows, column)
        if len(values):
            best = best_of(values)
            shown = (
                f"best {text(values[best])} in epoch {epochs[best]:.0f}, last {text(values[-1])}"
            )
            found.append(f"{name}: {shown}")
            marker = "o" if len(values) <= FEW else None
            axis.plot(epochs, values, color=color, marker=marker, label=found[-1])
            if name == "validation":
                axis.plot(epochs[best], values[best], "o", color=color, markersize=8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))
    if found and key == "accuracy":
        _show_percent(axis)
    return found


def _plot_steps(axis, rows, key):
    """Draw one value per epoch as steps, from zero; return whether there are any."""
    epochs, values = _series(rows, key)
    if len(values):
        marker = "o" if len(values) <= FEW else None
        axis.plot(epochs, values, drawstyle="steps-mid", color=GREY, marker=marker)
        axis.set_ylim(0, max(values.max() * 1.15, 1e-12))
    return len(values) > 0


def _show_percent(axis):
    """Show the shares of the y axis, 0 to 1, as percentages, and none above 100%."""
    from matplotlib.ticker import PercentFormatter

    low, high = axis.get_ylim()
    axis.set_ylim(low, min(high, 1 + 0.03 * (1 - low)))
    axis.yaxis.set_major_formatter(PercentFormatter(1))


# --- An evaluation --------------------------------------------------------------------------------


@dataclasses.dataclass
class Plot:
    """A PNG with what it shows in words, for those who cannot see it, and how to read it."""

    path: Path
    alt: str
    note: str


EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)  # bars of novelty


def plot_evaluation(
    labels: np.ndarray,
    probabilities: np.ndarray,
    uncalibrated: np.ndarray,
    classes: Sequence[str],
    history: Sequence[dict],
    folder: Path,
    novelty: np.ndarray | None = None,
    outsiders: np.ndarray | None = None,
) -> list[Plot]:
    """Draw the plots of predictions against labels, as PNG files in `folder`.

    Args:
        labels: `(n,)` int.
        probabilities: `(n, n_classes)`.
        uncalibrated: the same before temperature scaling.
        history: rows of the training run, as for `plot_history`.
        novelty: of the photos, `(n,)`, from 0 to 1; or None.
        outsiders: the novelty of pictures of no class, or None.
    """
    from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

    names = [printable(name) for name in classes]
    numbered = {n: name for n, name in enumerate(names, 1) if fonts.name_or_number(name, n) != name}
    key = "".join(f" {number} is {name}." for number, name in numbered.items())
    families = {font.name: 0 for font in map(fonts.find, names) if font}  # in order, each once
    draw = functools.partial(_draw, Path(folder), families=[*families])
    labels, two = np.asarray(labels), len(classes) == 2
    of = f" of {short(classes[1], classes)}" if two else ""
    drawn = [
        draw("confusion_matrix", "Confusion matrix", "predicted", "true class",
             f"Correct predictions are on the diagonal.{key}",
             _confusion_matrix, labels, probabilities, classes),
        draw("roc", f"ROC curve{of}", "false positive rate", "true positive rate",
             "How many photos of a class are found, and how many others are taken for it, as the "
             "threshold falls. The number is the area under the curve; chance is the dashed line.",
             _ranking, labels, probabilities, classes, RocCurveDisplay, "ROC AUC"),
        draw("precision_recall", f"Precision and recall{of}", "recall", "precision",
             "How many photos of a class are found, and how many of those predicted as the class "
             "belong to it. The number is the average precision.",
             _ranking, labels, probabilities, classes, PrecisionRecallDisplay, "average precision"),
        draw("calibration", "Calibration", "probability of the prediction", "share that is correct",
             "Of the predictions with a probability of 90%, are 90% correct? The closer to the "
             "dotted line, the more reliable the probabilities.",
             _calibration, labels, probabilities, uncalibrated),
        draw("probabilities", f"Probability{of}" if two else "Probability of the prediction",
             "probability", "photos",
             "The further apart, the better. The counts have a logarithmic scale.",
             _histogram, labels, probabilities, classes),
        draw("threshold", "Accuracy against threshold", "threshold on the probability",
             "correct, of those predicted",
             "Predictions below the threshold are left out as unsure; more of the others are "
             "correct.", _threshold, labels, probabilities),
        draw("training_accuracy", "Accuracy during training", "epoch", "accuracy",
             "Training photos are cropped and altered at random, which makes them harder.",
             _plot_curves, history, "accuracy"),
        draw("training_loss", "Loss during training", "epoch", "loss (nats per photo)",
             "What training minimizes.", _plot_curves, history, "loss"),
        novelty is not None and
        draw("novelty", "Novelty", "share of validation photos that are less novel",
             "share of the pictures",
             "Photos like the validation photos are spread evenly. Those in the last bar, from 99% "
             "on, are called unknown.", _novelty, novelty, outsiders),
    ]  # fmt: skip
    return [plot for plot in drawn if plot]


def _draw(folder, name, title, x_label, y_label, note, plot, *arguments, families=()):
    """Draw `plot(axis, *arguments)`, which returns what it shows as a list of text.

    Returns:
        The `Plot`, or None if it cannot be drawn.
    """
    path, found = folder / f"{name}.png", []
    with picture(
        path, families, figsize=(5, 4), dpi=180
    ) as figure:  # can be read at the width of a phone
        axis = figure.subplots()
        found = plot(axis, *arguments)
        axis.set(title=title, xlabel=x_label, ylabel=y_label, aspect="auto")
        if found:
            _legend_below(axis)
        else:
            _say_missing(axis, "not recorded" if plot is _plot_curves else "no photos of a class")
    if not path.exists():
        return None
    return Plot(path, f"{title}: {'; '.join(found) or 'Nothing to draw'}.", note)


def _legend_below(axis):
    """Put the legend below the axes, where no curve can run through it, as wide as it fits."""
    if axis.get_legend():
        axis.get_legend().remove()
    handles, names = axis.get_legend_handles_labels()
    for columns in (2, 1) if names else ():
        legend = axis.figure.legend(handles, names, loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width < 0.95 * axis.figure.bbox.width:
            break
        legend.remove()


def _confusion_matrix(axis, labels, probabilities, classes):
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    counts = confusion_matrix(labels, probabilities.argmax(1), labels=range(len(classes)))
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    few = len(classes) <= tables.LARGEST_MATRIX
    names = [short(name, classes) for name in classes]
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    display.plot(ax=axis, cmap="Blues", colorbar=False, include_values=few, values_format=".1%",
                 xticks_rotation="horizontal" if len(classes) < 5 else "vertical",
                 im_kw={"vmin": 0, "vmax": 1})  # fmt: skip
    axis.grid(False)
    if few:
        for text, count in zip(display.text_.flat, counts.flat, strict=True):
            text.set_text(f"{count:,}\n{text.get_text()}" if len(classes) < 5 else f"{count:,}")
    if len(classes) > NAMED_CLASSES:
        axis.set(xticks=[], yticks=[])
        return [f"{len(classes)} classes, accuracy {counts.trace() / counts.sum():.2%}"]
    recall = zip(classes, shares.diagonal(), counts.sum(1), strict=True)
    return [f"{name} {share:.1%} correct" for name, share, photos in recall if photos]


def _one_against_the_rest(labels, probabilities, classes):
    """Yield (name, whether it is, probability) for each curve that can be drawn."""
    if len(classes) > len(COLORS):
        one_hot = labels[:, None] == np.arange(len(classes))
        yield "all classes", one_hot.ravel(), probabilities.ravel()
        return
    for i in [1] if len(classes) == 2 else range(len(classes)):
        truth = labels == i
        if 0 < truth.sum() < len(truth):
            yield classes[i], truth, probabilities[:, i]


def _ranking(axis, labels, probabilities, classes, display, figure):
    """Draw a curve of scikit-learn for each class, with its `figure`, such as "ROC AUC"."""
    found = []
    for name, truth, probability in _one_against_the_rest(labels, probabilities, classes):
        drawn = display.from_predictions(truth, probability, ax=axis)
        value = f"{getattr(drawn, figure.lower().replace(' ', '_')):.4f}"
        drawn.line_.set_label(f"{short(name, classes)} {value}")
        found.append(f"{figure} of {name} {value}")
    if figure == "ROC AUC":
        axis.axline((0, 0), slope=1, linestyle="--", linewidth=1, color=LINE)
    return found


def _calibration(axis, labels, probabilities, uncalibrated):
    from sklearn.calibration import CalibrationDisplay

    found = []
    for when, color, given in (("before", ORANGE, uncalibrated), ("after", BLUE, probabilities)):
        error = (
            f"{when} temperature scaling {metrics.expected_calibration_error(labels, given):.2%}"
        )
        found.append(f"expected calibration error {error}")
        CalibrationDisplay.from_predictions(
            given.argmax(1) == labels, given.max(1), n_bins=metrics.BINS, ax=axis,
            name=f"error {error}", color=color, marker="o",
        )  # fmt: skip
    axis.set_xlim(1 / given.shape[1] - 0.02, 1.02)
    return found


def _novelty(axis, novelty, outsiders):
    groups = {"scored photos": novelty, "pictures of no class": outsiders}
    groups = {name: values for name, values in groups.items() if values is not None}
    places, width = np.arange(len(EDGES) - 1), 0.8 / len(groups)
    for number, (name, values) in enumerate(groups.items()):
        shares = np.histogram(values, EDGES)[0] / len(values)
        axis.bar(places + width * number, shares, width, align="edge", label=name)
    shown = [f"{edge:.0%}" if edge in (0, 0.2, 0.4, 0.6, 0.8, 0.95) else "" for edge in EDGES]
    axis.set_xticks(np.arange(len(EDGES)), [*shown[:-1], "100%"])
    _show_percent(axis)
    return [f"{(values >= EDGES[-2]).mean():.1%} of {name}" for name, values in groups.items()]


def _histogram(axis, labels, probabilities, classes):
    if len(classes) == 2:
        values = probabilities[:, 1]
        groups = {short(name, classes): labels == i for i, name in enumerate(classes)}
    else:
        values, right = probabilities.max(1), probabilities.argmax(1) == labels
        groups = {"correct": right, "wrong": ~right}
    for name, members in groups.items():
        axis.hist(values[members], np.linspace(0, 1, 41), alpha=0.6, label=name, log=True)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_formatter("")
    return [
        f"median of {name} {np.median(values[members]):.1%}"
        for name, members in groups.items()
        if members.any()
    ]


def _threshold(axis, labels, probabilities):
    thresholds, accuracy, unsure = metrics.accuracy_by_threshold(labels, probabilities)
    axis.step(thresholds, accuracy, where="pre", color=BLUE, label="correct, of those predicted")
    axis.plot([], [], color=ORANGE, label="left out as unsure (scale on the right)")
    axis.tick_params(axis="y", labelcolor=BLUE)
    _show_percent(axis)
    other = axis.twinx()  # if nearly all are correct, one scale would show a flat line
    other.step(thresholds, unsure, where="pre", color=ORANGE)
    other.grid(False)
    other.tick_params(axis="y", labelcolor=ORANGE)
    other.set_ylim(0, 1)
    _show_percent(other)
    tenth = np.searchsorted(unsure, 0.1, side="right") - 1
    return [
        f"{accuracy[0]:.2%} correct with every photo predicted",
        f"{accuracy[tenth]:.2%} with {unsure[tenth]:.1%} left out as unsure",
    ]
