"""Plots of a training run and of an evaluation, each written as one PNG, whole or not at all.

Drawn on matplotlib's Figure: pyplot's state is shared between threads and asks for a screen.
"""

import dataclasses
from pathlib import Path

import numpy as np

from catdog import files
from catdog.scores import metrics as report

TITLE, TEXT, LABEL, GRID = "#1f2933", "#3e4c59", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREY = "#1f5fa8", "#e07b39", "#52606d"
COLORS = (BLUE, ORANGE, "#2a9d6f", "#b5446e", "#7a5cc0", "#8c6d1f", "#3aa6b9", GREY)


def save(figure, path):
    """Writes a PNG, whole or not at all."""
    with files.atomic_file(Path(path)) as temporary:
        figure.savefig(temporary, format="png", backend="agg")


def style(axis):
    """Grid, spines and ticks as in all pictures."""
    axis.grid(color=GRID)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#9aa5b1")
    axis.tick_params(labelsize=11, color="#9aa5b1", labelcolor=TEXT)


def _say_missing(axis, text):
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center",
              fontsize=12, color=LABEL)


# --- A training run -------------------------------------------------------------------------------


def plot_history(rows, path):
    """Draws the history of a training run as one PNG at `path`, whole or not at all.

    `rows`: a dict an epoch, of numbers or their text, with the keys epoch (default: counted from
    1), loss, val_loss (nats), accuracy, val_accuracy (0 to 1), learning_rate and image_size
    (pixels). Any may be missing, empty or NaN. Raises OSError where `path` cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), dpi=120, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1, wspace=0.03, hspace=0.04)
    axes = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True)
    (accuracy, loss), (learning_rate, image_size) = axes
    _plot_metric(accuracy, rows, "accuracy", "Accuracy", "accuracy (%)", 100, "{:.2f}%", np.argmax)
    _plot_metric(loss, rows, "loss", "Loss", "loss (nats per photo)", 1, "{:.4f}", np.argmin)
    _plot_steps(learning_rate, rows, "learning_rate", "Learning rate", "step size")
    _plot_steps(image_size, rows, "image_size", "Image size", "side (pixels)")
    for axis in axes.flat:
        style(axis)
        _count_epochs(axis)
        if not axis.lines:
            _say_missing(axis, "not recorded")
            axis.set_yticks([])
    for axis in axes[1]:
        axis.set_xlabel("epoch", fontsize=12, color=TEXT)
    figure.align_ylabels()

    save(figure, path)


def _count_epochs(axis):
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))


def _series(rows, key):
    """Returns the epochs (m,) and values (m,) of the rows that have a finite value of `key`."""
    epochs = [row.get("epoch", i) for i, row in enumerate(rows, start=1)]
    values = [row.get(key) for row in rows]
    pairs = np.array([(epoch, np.nan if value in (None, "") else value)
                      for epoch, value in zip(epochs, values, strict=True)], float).reshape(-1, 2)
    return pairs[np.isfinite(pairs).all(1)].T


def _plot_metric(axis, rows, key, title, label, scale, form, best_of):
    """Draws the training and the validation curve; the best validation value has a dot."""
    axis.set_title(title, loc="left", fontsize=16, fontweight="bold", color=TITLE, pad=30)
    axis.set_ylabel(label, fontsize=12, color=TEXT)
    for name, column, color, width in (("training", key, ORANGE, 1.8),
                                       ("validation", f"val_{key}", BLUE, 2.4)):
        epochs, values = _series(rows, column)
        values = values * scale
        if not len(values):
            continue
        # A line through few points is hard to read, and through one invisible.
        marker = "o" if len(values) <= 20 else None
        axis.plot(epochs, values, label=name, color=color, linewidth=width, marker=marker,
                  markersize=4)
        if name == "validation":
            best = best_of(values)
            axis.plot(epochs[best], values[best], "o", color=color, markersize=10,
                      markeredgecolor="white", markeredgewidth=2, label="best validation")
            text = (f"validation: best {form.format(values[best])} (epoch {epochs[best]:.0f}), "
                    f"last {form.format(values[-1])}")
            # Above the axes, where no curve can run through it.
            axis.annotate(text, (0, 1), (0, 10), xycoords="axes fraction",
                          textcoords="offset points", fontsize=12, color=color)
    if axis.lines:
        axis.legend(fontsize=12, frameon=False, loc="best")


def _plot_steps(axis, rows, key, title, label):
    """Draws one value an epoch as steps, from zero."""
    axis.set_title(title, loc="left", fontsize=13, fontweight="bold", color=TITLE)
    axis.set_ylabel(label, fontsize=12, color=TEXT)
    epochs, values = _series(rows, key)
    if len(values):
        axis.plot(epochs, values, drawstyle="steps-mid", color=GREY, linewidth=1.8,
                  marker="o" if len(values) <= 20 else None, markersize=4)
        axis.set_ylim(0, max(values.max() * 1.15, 1e-12))


# --- An evaluation --------------------------------------------------------------------------------


@dataclasses.dataclass
class Plot:
    """A PNG with what it shows, for those who cannot see it, and how to read it."""

    path: Path
    title: str
    alt: str
    note: str


def plot_evaluation(labels, probabilities, uncalibrated, classes, history, folder):
    """Draws what there is to see of predictions against labels, as PNGs in `folder`.

    Args:
        labels: (n,) int; probabilities: (n, n_classes); uncalibrated: the same before temperature.
        history: rows of the training run, as for `plot_history`.
    Returns:
        A list of `Plot`.
    """
    def draw(name, title, x_label, y_label, note, plot, *arguments):
        figure, axis = _figure(title, x_label, y_label)
        alt = plot(axis, *arguments) or "Nothing to draw."
        path = Path(folder) / f"{name}.png"
        save(figure, path)
        return Plot(path, title, f"{title}: {alt}", note)

    two = len(classes) == 2
    of = f" of {classes[1]}" if two else ""
    return [
        draw("confusion_matrix", "Confusion matrix", "predicted", "true class",
             "Right answers stand on the diagonal.",
             _confusion_matrix, labels, probabilities, classes),
        draw("roc", f"ROC{of}", "false positive rate", "true positive rate",
             "How many are found, against how many of the others are taken for them, as the "
             "threshold falls. Chance is the dashed line.",
             _roc, labels, probabilities, classes),
        draw("precision_recall", f"Precision and recall{of}", "recall", "precision",
             "How many are found, against how many of the answers are right.",
             _precision_recall, labels, probabilities, classes),
        draw("calibration", "Calibration", "probability of the answer", "share that is right",
             "Where the network says 90%, are 90% right? The closer to the dashed line, the better "
             "its probabilities can be believed.",
             _calibration, labels, probabilities, uncalibrated),
        draw("probabilities", f"Probability{of}" if two else "Probability of the answer",
             "probability", "photos",
             "The further apart, the better. Counts are drawn on a logarithmic scale.",
             _histogram, labels, probabilities, classes),
        draw("threshold", "Accuracy against threshold", "threshold on the probability", "share (%)",
             "Answers below the threshold are left unsure; of the others, more are right.",
             _threshold, labels, probabilities),
        draw("training_accuracy", "Accuracy while training", "epoch", "accuracy (%)",
             "Training photos are cropped and altered at random, which makes them harder.",
             _history, history, "accuracy", 100, "{:.2f}%", np.argmax),
        draw("training_loss", "Loss while training", "epoch", "loss (nats per photo)",
             "What training makes small.", _history, history, "loss", 1, "{:.4f}", np.argmin),
    ]


def _figure(title, x_label, y_label):
    """A figure that can still be read at the width of a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), dpi=180, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    axis = figure.subplots()
    axis.set_title(title, loc="left", fontsize=13, fontweight="bold", color=TITLE)
    axis.set_xlabel(x_label, fontsize=12, color=TEXT)
    axis.set_ylabel(y_label, fontsize=12, color=TEXT)
    style(axis)
    return figure, axis


def _short(name):
    # matplotlib takes what stands between two dollar signs for a formula.
    return (name if len(name) <= 14 else name[:13] + "…").replace("$", r"\$")


def _confusion_matrix(axis, labels, probabilities, classes):
    score = report.score(labels, probabilities, classes)
    counts = np.array(score["confusion_matrix"])
    share = counts / counts.sum(1, keepdims=True).clip(1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.grid(False)
    if len(classes) > 30:  # names would run into each other
        return f"{len(classes)} classes, accuracy {score['accuracy']:.2%}."
    axis.set_xticks(range(len(classes)), map(_short, classes), rotation=90 * (len(classes) > 6))
    axis.set_yticks(range(len(classes)), map(_short, classes))
    if len(classes) <= report.LARGEST_MATRIX:
        for (row, column), count in np.ndenumerate(counts):
            axis.text(column, row, f"{count:,}\n{share[row, column]:.1%}" if len(classes) < 5
                      else f"{count:,}", ha="center", va="center", fontsize=12,
                      color="white" if share[row, column] > 0.5 else TITLE)
    accuracy = zip(classes, score["class_accuracy"], strict=True)
    return ", ".join(f"{name} {value:.1%} right" for name, value in accuracy
                     if value is not None) + "."


def _one_against_the_rest(labels, probabilities, classes):
    """Yields (name, whether it is, probability) for each curve that can be drawn."""
    if len(classes) > len(COLORS):
        one_hot = np.asarray(labels)[:, None] == np.arange(len(classes))
        yield "all classes", one_hot.ravel(), probabilities.ravel()
        return
    for i in [1] if len(classes) == 2 else range(len(classes)):
        truth = np.asarray(labels) == i
        if 0 < truth.sum() < len(truth):
            yield classes[i], truth, probabilities[:, i]


def _roc(axis, labels, probabilities, classes):
    from sklearn.metrics import auc, roc_curve

    found = []
    for color, (name, truth, probability) in zip(
            COLORS, _one_against_the_rest(labels, probabilities, classes), strict=False):
        false, true, _ = roc_curve(truth, probability)
        found.append(f"{name} has an area of {auc(false, true):.4f}")
        axis.plot(false, true, color=color, linewidth=2.2,
                  label=f"{_short(name)}, area {auc(false, true):.4f}")
    axis.plot([0, 1], [0, 1], "--", color="#9aa5b1", linewidth=1)
    return _legend(axis, found)


def _precision_recall(axis, labels, probabilities, classes):
    from sklearn.metrics import average_precision_score, precision_recall_curve

    found = []
    for color, (name, truth, probability) in zip(
            COLORS, _one_against_the_rest(labels, probabilities, classes), strict=False):
        precision, recall, _ = precision_recall_curve(truth, probability,
                                                      drop_intermediate=True)
        average = average_precision_score(truth, probability)
        found.append(f"{name} has an average precision of {average:.4f}")
        axis.plot(recall, precision, color=color, linewidth=2.2,
                  label=f"{_short(name)}, average {average:.4f}")
    axis.set_ylim(-0.02, 1.03)
    return _legend(axis, found)


def _legend(axis, found, missing="a class has no photos here"):
    if not found:
        _say_missing(axis, missing)
        return ""
    # Below the axes, where no curve can run through it.
    wide = max(len(label) for label in axis.get_legend_handles_labels()[1]) > 24
    axis.figure.legend(loc="outside lower center", ncols=1 if wide else 2, fontsize=12,
                       frameon=False)
    return "; ".join(found) + "."


def _calibration(axis, labels, probabilities, uncalibrated):
    from sklearn.calibration import calibration_curve

    axis.plot([0, 1], [0, 1], "--", color="#9aa5b1", linewidth=1)
    found = []
    for name, color, answers in (("before temperature", ORANGE, uncalibrated),
                                 ("after temperature", BLUE, probabilities)):
        right, confidence = answers.argmax(1) == labels, answers.max(1)
        share, said = calibration_curve(right, confidence, n_bins=report.BINS)
        error = report.expected_calibration_error(labels, answers)
        axis.plot(said, share, "o-", color=color, linewidth=2.2, markersize=5,
                  label=f"{name}, error {error:.2%}")
        found.append(f"expected calibration error {name} {error:.2%}")
    axis.set_xlim(1 / answers.shape[1] - 0.02, 1.02)
    return _legend(axis, found)


def _histogram(axis, labels, probabilities, classes):
    if len(classes) == 2:
        values = probabilities[:, 1]
        groups = [(name, np.asarray(labels) == i) for i, name in enumerate(classes)]
    else:
        values = probabilities.max(1)
        right = probabilities.argmax(1) == labels
        groups = [("right", right), ("wrong", ~right)]
    found = []
    for color, (name, members) in zip(COLORS, groups, strict=False):
        axis.hist(values[members], bins=np.linspace(0, 1, 41), color=color, alpha=0.6,
                  label=_short(name), log=True)
        if members.any():
            found.append(f"median of {name} {np.median(values[members]):.1%}")
    return _legend(axis, found)


def _threshold(axis, labels, probabilities):
    thresholds, accuracy, unsure = report.accuracy_by_threshold(labels, probabilities)
    axis.step(thresholds, 100 * accuracy, where="pre", color=BLUE, linewidth=2.2,
              label="right, of those answered")
    axis.plot([], [], color=ORANGE, linewidth=2.2, label="left unsure (scale on the right)")
    axis.tick_params(axis="y", labelcolor=BLUE)
    other = axis.twinx()  # where nearly all is right, one scale would show a flat line
    other.step(thresholds, 100 * unsure, where="pre", color=ORANGE, linewidth=2.2)
    style(other)
    other.grid(False)
    other.tick_params(axis="y", labelcolor=ORANGE)
    other.set_ylim(-2, 102)
    tenth = np.searchsorted(unsure, 0.1, side="right") - 1
    return _legend(axis, [f"{accuracy[0]:.2%} right with every photo answered",
                          f"{accuracy[tenth]:.2%} with {unsure[tenth]:.1%} left unsure"])


def _history(axis, rows, key, scale, form, best_of):
    _count_epochs(axis)
    found = []
    for name, column, color in (("training", key, ORANGE), ("validation", f"val_{key}", BLUE)):
        epochs, values = _series(rows, column)
        if len(values):
            values = values * scale
            best = best_of(values)
            axis.plot(epochs, values, color=color, linewidth=2.2, label=name,
                      marker="o" if len(values) <= 20 else None, markersize=4)
            found.append(f"{name} ends at {form.format(values[-1])}, best "
                         f"{form.format(values[best])} in epoch {epochs[best]:.0f}")
    return _legend(axis, found, "not recorded")
