"""From labels and probabilities to metrics.

Labels are integers of shape `(n,)`, each an index into `classes`. Probabilities are floats of shape
`(n, n_classes)` whose rows sum to 1; with two classes, column 1 is the probability of class 1. The
predicted class is the one of the highest probability, the first of them in a tie. Arguments that do
not fit raise ValueError.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from catdog.runs.calibration import SMALLEST_PROBABILITY

BINS = 15  # of confidence, for the calibration error
TOP = 5  # classes of the top-5 accuracy, which is computed if there are more classes than that


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval (low, high) of the proportion `correct / total`.

    It is (0.0, 1.0) for a total of 0.
    """
    from scipy.stats import binomtest

    if correct == total == 0:
        return 0.0, 1.0
    low, high = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def score(labels: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict:
    """Return the metrics of predictions as a dict of plain Python values.

    The log loss is in nats; all others lie in [0, 1]. A value that is not defined is None.

    Args:
        labels: `(n,)`; n may be 0.
        probabilities: `(n, n_classes)`. For the log loss, probabilities below 1e-7 count as 1e-7,
            after which the rows are scaled to a sum of 1.
        classes: two names or more.
    Returns:
        images: n.
        accuracy, accuracy_low, accuracy_high: with the 95% Wilson interval.
        log_loss, roc_auc: of more than two classes, the mean ROC AUC of each against the rest; None
            if any class has no images.
        confusion_matrix: lists of counts, rows are true classes, columns predicted classes.
        classes: the names.
        class_accuracy, class_precision, class_recall, class_f1: a list each, one value per class.
            The accuracy of a class is its recall.
        balanced_accuracy: the mean recall of the classes that have images.
        macro_f1: the mean F1 of the classes that have images or were predicted.
        top_5_accuracy: only with six classes or more.
    """
    classes = [str(name) for name in classes]
    if len(classes) < 2:
        raise ValueError(f"expected two classes or more, got {classes}")
    labels, probabilities = _checked(labels, probabilities, len(classes))
    per_class = ("class_accuracy", "class_precision", "class_recall", "class_f1")
    found = {
        "images": len(labels),
        **dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high", "log_loss", "roc_auc")),
        "confusion_matrix": [[0] * len(classes) for _ in classes],
        "classes": classes,
        **{key: [None] * len(classes) for key in per_class},
        **dict.fromkeys(("balanced_accuracy", "macro_f1")),
        **({"top_5_accuracy": None} if len(classes) > TOP else {}),
    }
    return {**found, **_score(labels, probabilities)} if len(labels) else found


def _score(labels, probabilities):
    """Return the values of `score` for one image or more."""
    from sklearn import metrics

    n_classes, predicted = probabilities.shape[1], probabilities.argmax(1)
    indices = range(n_classes)
    matrix = metrics.confusion_matrix(labels, predicted, labels=indices)
    correct = int(matrix.trace())
    low, high = wilson(correct, len(labels))
    clipped = probabilities.clip(SMALLEST_PROBABILITY)
    clipped /= clipped.sum(1, keepdims=True)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, labels=indices, zero_division=np.nan
    )
    found = {
        "accuracy": correct / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "log_loss": float(metrics.log_loss(labels, clipped, labels=indices)),
        "confusion_matrix": matrix.tolist(),
        "class_accuracy": _without_nan(recall),
        "class_precision": _without_nan(precision),
        "class_recall": _without_nan(recall),
        "class_f1": _without_nan(f1),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1)),
    }
    if matrix.sum(1).all():
        ranked = probabilities[:, 1] if n_classes == 2 else probabilities
        auc = metrics.roc_auc_score(labels, ranked, multi_class="ovr", labels=indices)
        found["roc_auc"] = float(auc)
    if n_classes > TOP:
        top = metrics.top_k_accuracy_score(labels, probabilities, k=TOP, labels=indices)
        found["top_5_accuracy"] = float(top)
    return found


def _without_nan(values):
    return [None if np.isnan(value) else float(value) for value in values]


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS
) -> float | None:
    """Return the expected calibration error, in [0, 1], or None without images.

    The mean gap between confidence (the highest probability) and accuracy over `bins` equally wide
    bins of confidence, each weighted by its number of images. Method: Naeini et al., 2015, with the
    bins of Guo et al., 2017, closed on the right.
    """
    labels, probabilities = _checked(labels, probabilities)
    if not len(labels):
        return None
    confidence = probabilities.max(1)
    gap = (probabilities.argmax(1) == labels) - confidence
    bin_of_image = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return float(np.abs(np.bincount(bin_of_image, weights=gap)).sum() / len(labels))


def accuracy_by_threshold(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how accuracy rises if predictions below a threshold are left out as unsure.

    Returns:
        thresholds: all thresholds on the highest probability that make a difference, rising.
        accuracy: of the photos that reach the threshold.
        unsure: the share of the photos that do not reach it.
    """
    labels, probabilities = _checked(labels, probabilities)
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(labels) + 1)
    accuracy = (probabilities.argmax(1) == labels)[order].cumsum() / answered
    # Photos of the same confidence pass a threshold together.
    steps = np.flatnonzero(np.diff(confidence[order], append=-1.0))[::-1]
    return confidence[order][steps], accuracy[steps], 1 - answered[steps] / max(1, len(labels))


def mcnemar(labels: ArrayLike, predicted: ArrayLike, others: ArrayLike) -> dict:
    """Compare two predictions of the same photos, each `(n,)`, by McNemar's exact test.

    Returns:
        only_first_right, only_second_right: the photos that only one of the two gets right.
        p_value: the probability that chance alone divides them as unevenly (two-sided binomial
            test); 1.0 if there are none.
    """
    from scipy.stats import binomtest

    right, others_right = np.equal(predicted, labels), np.equal(others, labels)
    first, second = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    p_value = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return {"only_first_right": first, "only_second_right": second, "p_value": p_value}


def confident_joint(labels: ArrayLike, probabilities: ArrayLike) -> np.ndarray:
    """Count photos by their label and by the class that the probabilities are sure of.

    A photo counts as sure of a class if its probability reaches the mean probability of that class
    over the photos that are labelled so; of several such classes, the most probable. The counts off
    the diagonal are an estimate of how many labels are wrong. Method: confident learning, Northcutt
    et al., 2021.

    Args:
        probabilities: of a network that was not trained on these photos.
    Returns:
        int `(n_classes, n_classes)`: rows are labels, columns the classes. Photos that reach no
        mean count nowhere.
    """
    labels, probabilities = _checked(labels, probabilities)
    n_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], n_classes)
    mean = np.where(counts > 0, sums / counts.clip(1), np.inf)
    # Rounding must not keep photos that are all alike from reaching their own mean.
    reached = np.where(probabilities >= mean - 1e-6, probabilities, 0)
    sure = reached.max(1) > 0
    joint = np.zeros((n_classes, n_classes), int)
    np.add.at(joint, (labels[sure], reached[sure].argmax(1)), 1)
    return joint


def _checked(labels, probabilities, n_classes=None):
    """Return labels `(n,)` as int and probabilities `(n, n_classes)` as float64, summing to 1."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.shape == (0,) and probabilities.size == 0:
        return labels.astype(int), np.zeros((0, n_classes or 2))
    n_classes, total = n_classes or probabilities.shape[-1], probabilities.sum(-1, keepdims=True)
    if not (
        labels.ndim == 1
        and probabilities.shape == (len(labels), n_classes)
        and np.isin(labels, range(n_classes)).all()
        and (probabilities >= 0).all()
        and np.allclose(total, 1, atol=1e-2)
    ):
        raise ValueError(
            f"expected labels from 0 to {n_classes - 1} of shape (n,) and probabilities of shape "
            f"(n, {n_classes}) whose rows sum to 1, got {labels!r:.200} and {probabilities!r:.200}"
        )
    # Rows of float16 or float32 do not sum to 1 as closely as scikit-learn asks for.
    return labels.astype(int), probabilities / total
