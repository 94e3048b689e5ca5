"""From labels and probabilities to metrics and tables.

Labels are integers of shape (n,), each an index into `classes`. Probabilities are floats of shape
(n, n_classes) whose rows sum to 1; with two classes, column 1 is the probability of class 1.
The predicted class is the one of the highest probability, the first of them in a tie.
"""

import itertools
import json
import math
from pathlib import PurePath

import numpy as np

SMALLEST_PROBABILITY = 1e-7  # what float32 still tells from 1; keeps the log loss finite
TEMPERATURE_BOUNDS = (0.1, 10.0)
LARGEST_MATRIX = 8  # classes; more do not fit on a terminal
CONFUSIONS_SHOWN = 10
BINS = 15  # of confidence, for the calibration error


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


def expected_calibration_error(labels, probabilities, bins=BINS):
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


def accuracy_by_threshold(labels, probabilities):
    """Returns what it costs to be more often right, arrays (thresholds, accuracy, unsure).

    With a threshold on the highest probability, photos below it stay unsure: the share `unsure` of
    all; `accuracy` is that of the others. The thresholds are all that make a difference, rising.
    Raises ValueError as `score` does.
    """
    labels, probabilities = _checked(labels, probabilities, None)
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(labels) + 1)
    accuracy = (probabilities.argmax(1) == labels)[order].cumsum() / answered
    # Photos of one confidence pass a threshold together.
    steps = np.flatnonzero(np.diff(confidence[order], append=-1.0))[::-1]
    return confidence[order][steps], accuracy[steps], 1 - answered[steps] / max(1, len(labels))


def mcnemar(labels, predicted, others):
    """Compares two predictions of the same photos, (n,) each, by those that only one gets right.

    Returns a dict: only_first_right, only_second_right, and p_value, the probability that chance
    alone divides them as unevenly (exact binomial test, two-sided; 1.0 where they never disagree).
    Method: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", 1947.
    """
    from scipy.stats import binomtest

    right, others_right = np.equal(predicted, labels), np.equal(others, labels)
    first, second = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    p_value = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return {"only_first_right": first, "only_second_right": second, "p_value": p_value}


def format_score(score):
    """Returns the dict of `score` as a table for the terminal, of several lines.

    With more than eight classes, the ten largest confusions and the ten classes least often right
    stand in for the confusion matrix.
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
    names = [_safe(name) for name in score["classes"]]
    matrix = np.array(score["confusion_matrix"])
    if len(names) <= LARGEST_MATRIX:
        header = ["true \\ predicted", *(name[:12] for name in names), "correct"]
        rows = [[name, *(f"{count:,}" for count in counts), _percent(accuracy)] for
                name, counts, accuracy in zip(names, matrix, score["class_accuracy"], strict=True)]
        lines += table([header, *rows], left=1)
    else:
        lines += _worst_of_many(names, matrix, score["class_accuracy"])
    return "\n".join(lines)


def _worst_of_many(names, matrix, class_accuracy):
    """The largest confusions and the classes least often right, as lines."""
    mistakes = matrix * (1 - np.eye(len(names), dtype=int))
    largest = np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
    pairs = zip(*np.unravel_index(largest, matrix.shape), strict=True)
    confusions = [[names[i], names[j], f"{mistakes[i, j]:,}"] for i, j in pairs if mistakes[i, j]]
    if not confusions:
        return ["no mistakes"]
    wrong = [i for i, accuracy in enumerate(class_accuracy) if accuracy not in (None, 1)]
    worst = sorted(wrong, key=class_accuracy.__getitem__)[:CONFUSIONS_SHOWN]
    classes = [[names[i], f"{matrix[i].sum():,}", _percent(class_accuracy[i])] for i in worst]
    return ["largest confusions",
            *table([["true class", "predicted", "photos"], *confusions], left=2), "",
            "least often right",
            *table([["true class", "photos", "correct"], *classes], left=1)]


def format_comparison(scores, pairs):
    """Returns dicts of `score`, each with its `model`, and of `mcnemar` as text of several lines.

    pairs: those of each two runs, in the order of `itertools.combinations`.
    """
    letters = [chr(ord("A") + i) for i in range(len(scores))]  # for the runs, whose paths are long
    rows = [["run", "accuracy", "95% interval", "log loss", "ROC AUC"]]
    for letter, score in zip(letters, scores, strict=True):
        interval = f"{_percent(score['accuracy_low'])} to {_percent(score['accuracy_high'])}"
        rows.append([f"{letter}  {_safe(score['model'])}", _percent(score["accuracy"]), interval,
                     _number(score["log_loss"]), _number(score["roc_auc"])])
    lines = [*table(rows, left=1), f"on the same {scores[0]['images']:,} photos", ""]
    for (a, b), pair in zip(itertools.combinations(letters, 2), pairs, strict=True):
        verdict = "more than chance" if pair["p_value"] < 0.05 else "may be chance"
        lines.append(f"{a} against {b}: only {a} right {pair['only_first_right']:,}, only {b} "
                     f"right {pair['only_second_right']:,}, p = {pair['p_value']:.2g}: {verdict}")
    return "\n".join(lines)


def _safe(text):
    # A class is named after a folder, whose name may hold codes that steer a terminal.
    return "".join(c if c.isprintable() else "?" for c in text)


def table(rows, left):
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
