"""From labels and probabilities to metrics, tables and plots.

Labels are integers of shape (n,), each an index into `classes`. Probabilities are floats of shape
(n, n_classes) whose rows sum to 1; with two classes, column 1 is the probability of class 1.
The predicted class is the one of the highest probability, the first of them in a tie.
"""

import json
import math
import os
from pathlib import Path, PurePath

import numpy as np

SMALLEST_PROBABILITY = 1e-7  # what float32 still tells from 1; keeps the log loss finite
TEMPERATURE_BOUNDS = (0.1, 10.0)
LARGEST_MATRIX = 8  # classes; more do not fit on a terminal
CONFUSIONS_SHOWN = 10


def wilson(correct, total, z=1.959964):
    """Returns the Wilson score interval (low, high) of the proportion correct / total.

    Both ends lie in [0, 1]; with a total of 0 they are (0.0, 1.0). The default `z` is that of 95%.
    Raises ValueError unless 0 <= correct <= total. Method: E. B. Wilson, "Probable inference, the
    law of succession, and statistical inference", 1927.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"Expected 0 <= correct <= total. Received: correct={correct}, "
                         f"total={total}")
    if total == 0:
        return 0.0, 1.0
    proportion = correct / total
    scale = 1 + z**2 / total
    centre = (proportion + z**2 / (2 * total)) / scale
    margin = z / scale * math.sqrt(proportion * (1 - proportion) / total + (z / total / 2) ** 2)
    # Rounding would leave 1e-17 instead of 0, and the like below 1.
    low = 0.0 if correct == 0 else centre - margin
    high = 1.0 if correct == total else centre + margin
    return low, high


def score(labels, probabilities, classes):
    """Returns the metrics of predictions against labels as a dict of plain Python values.

    Keys, in this order: images, accuracy, accuracy_low, accuracy_high (95% Wilson interval),
    log_loss (nats), roc_auc (more than two classes: mean of one class against the rest),
    confusion_matrix (list of lists of counts, rows: true class, columns: predicted class), classes,
    class_accuracy (list, one a class). All but the log loss lie in [0, 1]. What has no value is
    None: everything of no images, the accuracy of a class without images, and ROC AUC where any
    class is without images. For the log loss, probabilities below 1e-7 count as 1e-7, after which
    the rows are scaled to a sum of 1.

    Raises ValueError for fewer than two classes, shapes that do not match, labels outside the
    classes and probabilities outside [0, 1].
    """
    from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

    classes = [str(name) for name in classes]
    if len(classes) < 2:
        raise ValueError(f"Expected classes to be two names or more. Received: classes={classes}")
    labels, probabilities = _checked(labels, probabilities, len(classes))
    indices = range(len(classes))
    images = len(labels)
    matrix = np.zeros((len(classes), len(classes)), int)
    accuracy = low = high = loss = auc = None
    if images:
        matrix = confusion_matrix(labels, probabilities.argmax(1), labels=indices)
        correct = int(matrix.trace())
        accuracy = correct / images
        low, high = wilson(correct, images)
        clipped = probabilities.clip(SMALLEST_PROBABILITY)
        clipped /= clipped.sum(1, keepdims=True)
        loss = float(log_loss(labels, clipped, labels=indices))
    per_class = matrix.sum(1)
    if per_class.all():
        if len(classes) == 2:
            auc = float(roc_auc_score(labels, probabilities[:, 1]))
        else:
            auc = float(roc_auc_score(labels, probabilities, multi_class="ovr", labels=indices))
    return {
        "images": images,
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "log_loss": loss,
        "roc_auc": auc,
        "confusion_matrix": matrix.tolist(),
        "classes": classes,
        "class_accuracy": [int(matrix[i, i]) / int(n) if n else None
                           for i, n in enumerate(per_class)],
    }


def expected_calibration_error(labels, probabilities, bins=15):
    """Returns the expected calibration error, in [0, 1], or None of no images.

    The mean gap between confidence (highest probability) and accuracy over `bins` equally wide
    bins of confidence, each weighted by its number of images. Raises ValueError as `score` does.
    Method: Naeini et al., 2015, with the bins of Guo et al., 2017, closed on the right.
    """
    labels, probabilities = _checked(labels, probabilities, None)
    if not len(labels):
        return None
    confidence = probabilities.max(1)
    gap = (probabilities.argmax(1) == labels) - confidence
    bin_of_image = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return float(np.abs(np.bincount(bin_of_image, weights=gap)).sum() / len(labels))


def _checked(labels, probabilities, n_classes):
    """Returns labels (n,) as int and probabilities (n, n_classes) as float64 summing to 1."""
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if labels.shape == (0,) and probabilities.size == 0:
        return labels.astype(int), np.zeros((0, n_classes or 2))
    if n_classes is None and probabilities.ndim == 2:
        n_classes = probabilities.shape[1]
    if labels.ndim != 1 or probabilities.shape != (len(labels), n_classes):
        raise ValueError("Expected labels of shape (n,) and probabilities of shape (n, n_classes). "
                         f"Received: {labels.shape} and {probabilities.shape}, with "
                         f"n_classes={n_classes}")
    if not np.isin(labels, np.arange(n_classes)).all():
        raise ValueError(f"Expected labels from 0 to {n_classes - 1}. Received: "
                         f"{np.unique(labels)[:20].tolist()}")
    total = probabilities.sum(1, keepdims=True)
    if not (probabilities >= 0).all() or not np.allclose(total, 1, atol=1e-2):
        raise ValueError("Expected probabilities in [0, 1] with rows that sum to 1. Received: "
                         f"values from {probabilities.min()} to {probabilities.max()}, sums from "
                         f"{total.min()} to {total.max()}")
    # Rows of float16 or float32 do not sum to 1 as closely as scikit-learn asks for.
    return labels.astype(int), probabilities / total


def format_score(score):
    """Returns the dict of `score` as a table for the terminal, of several lines.

    With more than eight classes, the ten largest confusions stand in for the confusion matrix.
    """
    interval = ""
    if score["accuracy"] is not None:
        interval = (f"95% interval {_percent(score['accuracy_low'])} to "
                    f"{_percent(score['accuracy_high'])}, ")
    lines = [
        f"accuracy  {_percent(score['accuracy']):>7}  ({interval}{score['images']:,} photos)",
        f"log loss  {_number(score['log_loss']):>7}",
        f"ROC AUC   {_number(score['roc_auc']):>7}",
        "",
    ]
    # A class is named after a folder, whose name may hold codes that steer a terminal.
    names = ["".join(c if c.isprintable() else "?" for c in name) for name in score["classes"]]
    matrix = np.array(score["confusion_matrix"])
    if len(names) <= LARGEST_MATRIX:
        header = ["true \\ predicted", *(name[:12] for name in names), "correct"]
        rows = [[name, *(f"{count:,}" for count in counts), _percent(accuracy)] for
                name, counts, accuracy in zip(names, matrix, score["class_accuracy"], strict=True)]
    else:
        header = ["true class", "predicted", "photos"]
        mistakes = matrix * (1 - np.eye(len(names), dtype=int))
        largest = np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
        pairs = zip(*np.unravel_index(largest, matrix.shape), strict=True)
        rows = [[names[i], names[j], f"{mistakes[i, j]:,}"] for i, j in pairs if mistakes[i, j]]
        lines.append("largest confusions" if rows else "no mistakes")
    if rows:
        lines += _table([header, *rows], left=1 if len(names) <= LARGEST_MATRIX else 2)
    return "\n".join(lines)


def _table(rows, left):
    """Returns the rows of strings as aligned lines, the first `left` columns flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) if i < left else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows]


def _percent(value):
    return "-" if value is None else f"{value:.2%}"


def _number(value):
    return "-" if value is None else f"{value:.4f}"


def to_json(obj):
    """Returns `obj` as strict JSON on one line; NaN and infinity become null.

    Takes what `json.dumps` does and NumPy scalars and arrays and paths, at any depth; keys become
    strings. Raises TypeError for anything else.
    """
    return json.dumps(_plain(obj), allow_nan=False)


def _plain(obj):
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, np.ndarray):
        return _plain(obj.tolist())
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, PurePath):
        return str(obj)
    if isinstance(obj, float | np.floating):
        return float(obj) if math.isfinite(obj) else None
    return obj.item() if isinstance(obj, np.generic) else obj


def softmax(logits):
    """Returns the softmax of finite logits (n, n_classes), of the same shape, as float64."""
    logits = np.asarray(logits, dtype=np.float64)
    # The largest exponent is 0, so that nothing overflows.
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def probabilities_from_logits(logits, temperature=1.0):
    """Returns probabilities (n, n_classes), float64, of a network's finite outputs.

    Input: logits (n, 1), of class 1 of two, through a sigmoid; or (n, n_classes), through a
    softmax. Both are divided by `temperature` first. Raises ValueError for another shape and for a
    temperature that is not above 0.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"Expected a temperature above 0. Received: temperature={temperature}")
    return softmax(_class_logits(logits) / temperature)


def _class_logits(logits):
    """Returns logits (n, n_classes): one alone, x, is worth the two 0 and x."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError("Expected logits of shape (n, 1) or (n, n_classes). "
                         f"Received: {logits.shape}")
    return np.pad(logits, ((0, 0), (1, 0))) if logits.shape[1] == 1 else logits


def fit_temperature(logits, labels):
    """Returns the temperature, from 0.1 to 10, that minimises the log loss of finite logits.

    Input: logits (n, 1) or (n, n_classes) and labels (n,) of photos that the network did not train
    on. Returns 1.0 where every answer is right, or there is none. Raises ValueError for shapes or
    labels that do not match. Method: temperature scaling, Guo et al., "On Calibration of Modern
    Neural Networks", 2017.
    """
    from scipy.optimize import minimize_scalar

    logits = _class_logits(logits)
    labels, probabilities = _checked(labels, softmax(logits), logits.shape[1])
    # Without a mistake, the best temperature would be 0: certain of everything.
    if (probabilities.argmax(1) == labels).all():
        return 1.0

    def log_loss(log_temperature):
        scaled = logits / math.exp(log_temperature)
        right = scaled[np.arange(len(labels)), labels]
        return (np.logaddexp.reduce(scaled, axis=1) - right).mean()

    # Convex in 1 / T, so that there is one minimum to find.
    found = minimize_scalar(log_loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
    return math.exp(found.x)


def fit_clip(probabilities, labels):
    """Returns the clip, 0 to 0.2, that minimises the log loss of np.clip(p, clip, 1 - clip).

    Input: probabilities of class 1 of two (n,), and labels (n,), of photos that the network did not
    train on. One confident mistake more than there is counts, by the rule of succession: without
    it, a network without mistakes would be left as certain as it likes.
    """
    right = np.append(np.where(np.asarray(labels) == 1, probabilities, 1 - probabilities), 0.0)
    clips = np.geomspace(SMALLEST_PROBABILITY, 0.2, 400)
    losses = [-np.log(np.clip(right, clip, 1 - clip)).mean() for clip in clips]
    return float(clips[np.argmin(losses)])


def plot_history(rows, path):
    """Draws the history of a training run as one PNG at `path`, whole or not at all.

    `rows`: a dict an epoch, of numbers or their text, with the keys epoch (default: counted from
    1), loss, val_loss (nats), accuracy, val_accuracy (0 to 1), learning_rate and image_size
    (pixels). Any may be missing, empty or NaN. Raises OSError where `path` cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, whose state is shared between threads
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 7), dpi=120, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1, wspace=0.03, hspace=0.04)
    axes = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True)
    (accuracy, loss), (learning_rate, image_size) = axes
    _plot_metric(accuracy, rows, "accuracy", "Accuracy", "accuracy (%)", 100, "{:.2f}%", np.argmax)
    _plot_metric(loss, rows, "loss", "Loss", "loss (nats per photo)", 1, "{:.4f}", np.argmin)
    _plot_steps(learning_rate, rows, "learning_rate", "Learning rate", "step size")
    _plot_steps(image_size, rows, "image_size", "Image size", "side (pixels)")
    for axis in axes.flat:
        axis.grid(color="#e4e7eb")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#9aa5b1")
        axis.tick_params(labelsize=11, color="#9aa5b1", labelcolor="#3e4c59")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1,
                                               steps=(1, 2, 5, 10)))
        if not axis.lines:
            axis.text(0.5, 0.5, "not recorded", transform=axis.transAxes, ha="center", va="center",
                      fontsize=12, color="#7b8794")
            axis.set_yticks([])
    for axis in axes[1]:
        axis.set_xlabel("epoch", fontsize=12, color="#3e4c59")
    figure.align_ylabels()

    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        figure.savefig(temporary, format="png", backend="agg")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _series(rows, key):
    """Returns the epochs (m,) and values (m,) of the rows that have a finite value of `key`."""
    epochs = [row.get("epoch", i) for i, row in enumerate(rows, start=1)]
    values = [row.get(key) for row in rows]
    pairs = np.array([(epoch, np.nan if value in (None, "") else value)
                      for epoch, value in zip(epochs, values, strict=True)], float).reshape(-1, 2)
    return pairs[np.isfinite(pairs).all(1)].T


def _plot_metric(axis, rows, key, title, label, scale, form, best_of):
    """Draws the training and the validation curve; the best validation value has a dot."""
    axis.set_title(title, loc="left", fontsize=16, fontweight="bold", color="#1f2933", pad=30)
    axis.set_ylabel(label, fontsize=12, color="#3e4c59")
    for name, column, color, width in (("training", key, "#e07b39", 1.8),
                                       ("validation", f"val_{key}", "#1f5fa8", 2.4)):
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
    axis.set_title(title, loc="left", fontsize=13, fontweight="bold", color="#1f2933")
    axis.set_ylabel(label, fontsize=12, color="#3e4c59")
    epochs, values = _series(rows, key)
    if len(values):
        axis.plot(epochs, values, drawstyle="steps-mid", color="#52606d", linewidth=1.8,
                  marker="o" if len(values) <= 20 else None, markersize=4)
        axis.set_ylim(0, max(values.max() * 1.15, 1e-12))
