"""From logits to probabilities that can be believed: temperature scaling and clipping.

Logits are those of a network, finite: `(n, 1)`, the logit of class 1 of two classes, or
`(n, n_classes)`. Labels are integers of shape `(n,)`, each an index into the classes. Both are of
photos that the network was not trained on. Arguments that do not fit raise ValueError.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

SMALLEST_PROBABILITY = 1e-7  # float32 can still tell 1 - 1e-7 from 1; keeps the log loss finite
TEMPERATURE_BOUNDS = (0.1, 10.0)
LARGEST_CLIP = 0.2


def softmax(logits: ArrayLike) -> np.ndarray:
    """Return the softmax of finite logits `(n, n_classes)`, of the same shape, in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    # The largest exponent is 0, so that nothing overflows.
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def probabilities_from_logits(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities of the classes, float64 `(n, n_classes)`; the rows sum to 1.

    Args:
        temperature: what the logits are divided by, above 0.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    return softmax(_class_logits(logits) / temperature)


def uncalibrated(probabilities: ArrayLike, temperature: float) -> np.ndarray:
    """Return the probabilities before they were calibrated, by undoing the temperature."""
    return softmax(temperature * np.log(np.clip(probabilities, 1e-30, 1)))


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the log loss of each photo, (n,)."""
    right = probabilities[np.arange(len(labels)), labels]
    return -np.log(right.clip(SMALLEST_PROBABILITY))


def _class_logits(logits):
    """Return logits `(n, n_classes)`: a single logit x stands for the two logits 0 and x."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"expected logits of shape (n, 1) or (n, n_classes), got {logits.shape}")
    return np.pad(logits, ((0, 0), (1, 0))) if logits.shape[1] == 1 else logits


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature that minimizes the log loss.

    Method: temperature scaling, Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Returns:
        From 0.1 to 10. 1.0 if every prediction is right (the best temperature would be 0, certain
        of everything) or if there are no photos.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = _class_logits(logits), np.asarray(labels, dtype=int)
    if labels.shape != logits.shape[:1] or not np.isin(labels, range(logits.shape[1])).all():
        raise ValueError(
            f"expected {len(logits)} labels from 0 to {logits.shape[1] - 1}, got {labels[:20]}"
        )
    if (logits.argmax(1) == labels).all():
        return 1.0

    def log_loss(log_temperature):
        scaled = logits / math.exp(log_temperature)
        right = scaled[np.arange(len(labels)), labels]
        return (np.logaddexp.reduce(scaled, axis=1) - right).mean()

    # Convex in 1 / T, so that there is one minimum to find.
    found = minimize_scalar(log_loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
    return math.exp(found.x)


def fit_clip(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the clip that minimizes the log loss of `np.clip(p, clip, 1 - clip)`.

    One confident mistake is counted in addition to those that there are (the rule of succession):
    otherwise a network without mistakes could remain as certain as it likes.

    Args:
        probabilities: of class 1 of two classes, `(n,)`.
    """
    right = np.append(np.where(np.asarray(labels) == 1, probabilities, 1 - probabilities), 0.0)
    clips = np.geomspace(SMALLEST_PROBABILITY, LARGEST_CLIP, 400)
    losses = [-np.log(np.clip(right, clip, 1 - clip)).mean() for clip in clips]
    return float(clips[np.argmin(losses)])
