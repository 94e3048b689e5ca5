"""How unlike the training photos a photo is, so that a picture of no class can be called unknown.

A network that knows cats and dogs only names a flower with confidence. Its features say more than
its probabilities: the detectors of ears, eyes and fur respond weakly, and in another combination
than on any training photo. A photo's score is the sum of two numbers, each standardized on the
validation photos:

    distance    1 minus the cosine between its inner features and the most similar ones among those
                of up to 500 training photos per class
    weakness    minus the logarithm of the length of its last features

Its novelty is 1 minus the share of real photos that are at least as unlike; of that share, which
the validation photos estimate, the upper 95% limit. Of photos like them, at most 1% have a novelty
of 0.99 or more, with 95% confidence. Nothing is tuned by hand. docs/unknown.md has the figures.

This file fits the constants; the layer of answer.py computes with them.

Features: float (n, 2 * width), not negative. The first half are the inner features: per channel,
the root mean square over all positions of an inner feature map. The second half are the last ones:
per channel, the maximum over all positions of the last feature map.
"""

import math

import numpy as np

from catdog.errors import UserError

DEFAULT_LIMIT = 0.99  # of the novelty, from which on a photo is called unknown
CONFIDENCE = 0.95

PHOTOS_PER_CLASS = 500  # at most, to compare with; 125 or 2,000 are as good
MAX_PHOTOS = 2_000  # of all classes: 0.5 MB if the inner features are 256 wide
MAX_SCORES = 10_000  # of validation photos
MIN_VALIDATION = 20  # photos, with which the novelty reaches 0.86

# In standard deviations. One part that is unusually familiar makes up for the other only down to
# here: a picture whose last features are ten times too long must not pass for that reason. From
# -0.5 down, the figures on photos do not change.
MOST_FAMILIAR = -1.0
TINY = 1e-6


def choose(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return which training photos to compare with, as ascending indices into `labels`.

    They are spread evenly over the photos of each class, at most `PHOTOS_PER_CLASS` of it, and
    fewer where the classes are so many that there would be more than `MAX_PHOTOS`.
    """
    most = max(1, min(PHOTOS_PER_CLASS, MAX_PHOTOS // classes))
    chosen = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        places = np.arange(min(most, len(members))) + 0.5
        chosen.append(members[(places * len(members) / max(len(places), 1)).astype(int)])
    return np.sort(np.concatenate(chosen))


def directions(features: np.ndarray) -> np.ndarray:
    """Return the inner features of training photos, each of length 1, float32 (width, n)."""
    inner, _ = np.split(np.asarray(features, np.float32), 2, axis=1)
    return (inner / np.linalg.norm(inner, axis=1, keepdims=True).clip(TINY)).T


def fit(parts: np.ndarray, scores: int) -> dict[str, np.ndarray]:
    """Return the constants of the novelty.

    Args:
        parts: (n, 2), distance and weakness of validation photos.
        scores: how many of their scores to keep, at most n.
    Returns:
        `mean` and `deviation` (2,) of the parts; `reached` (scores,), scores in descending order;
        `highest` (1,), the novelty of a photo with a higher score than all of these; `steps`
        (scores,), of which one is added for each that is not below the photo's score: they are
        negative.
    """
    mean, deviation = parts.mean(axis=0), np.maximum(parts.std(axis=0), TINY)
    found = np.sort(((parts - mean) / deviation).clip(MOST_FAMILIAR).sum(axis=1))[::-1]
    places = np.linspace(0, len(found) - 1, scores).round().astype(int)
    constants = {"mean": mean, "deviation": deviation, "reached": found[places]}
    by_count = table(scores)
    return {**constants, "highest": by_count[:1], "steps": np.diff(by_count)}


def table(photos: int) -> np.ndarray:
    """Return (photos + 1,), the novelty by how many validation photos are at least as unlike.

    Of a share k of n, the upper limit is that of Clopper and Pearson, 1934.
    """
    from scipy.stats import beta

    counts = np.arange(photos)
    return np.append(1 - beta.ppf(CONFIDENCE, counts + 1, photos - counts), 0.0)


def highest(photos: int) -> float:
    """Return the highest novelty that any photo can have: that of none at least as unlike.

    0.99 takes 299 validation photos.
    """
    return (1 - CONFIDENCE) ** (1 / photos) if photos else 0.0


def usable_limit(photos: int) -> float:
    """Return the highest limit of two digits that some photo can reach."""
    return math.floor(100 * highest(photos)) / 100


def advice(photos: int) -> list[str]:
    """Return what to use if no photo can be unknown at the default limit; a line or none."""
    if not 0 < highest(photos) < DEFAULT_LIMIT:
        return []
    return [
        f"With {photos:,} validation photos no photo is unknown at {DEFAULT_LIMIT}, which takes "
        f"299: use  python predict.py --unknown-at {usable_limit(photos):.2f}"
    ]


def check_limit(limit: float | None, photos: int) -> None:
    """Raise UserError if a limit was given that no photo can reach; 1 switches off."""
    if limit is None or limit == 1 or limit <= highest(photos):
        return
    if not photos:
        raise UserError(f"expected a run with novelty, got one without, and a limit of {limit:g}")
    raise UserError(
        f"expected at most {usable_limit(photos):.2f}, or 1, as the run has {photos:,} validation "
        f"photos, got {limit:g}"
    )


# --- Decision and figures -------------------------------------------------------------------------


def is_unknown(novelty: np.ndarray, limit: float = DEFAULT_LIMIT) -> np.ndarray:
    """Return where the novelty reaches `limit`, bool of the same shape; a limit of 1 switches off.

    With the default, at most 1% of the photos that are like the validation photos are.
    """
    return (np.asarray(novelty) >= limit) & (limit < 1)


def refusal_score(labels: np.ndarray, predicted: np.ndarray, novelty: np.ndarray) -> dict:
    """Return what calling photos unknown does to labelled photos of the classes.

    Returns:
        `limit`; `refused`, how many photos are called unknown; `share_refused`;
        `accuracy_of_the_others`, None where there are no others.
    """
    kept = ~is_unknown(novelty)
    refused = int(len(kept) - kept.sum())
    return {
        "limit": DEFAULT_LIMIT,
        "refused": refused,
        "share_refused": refused / max(len(kept), 1),
        "accuracy_of_the_others": float((labels == predicted)[kept].mean()) if kept.any() else None,
    }


def outsider_score(novelty: np.ndarray, outsiders: np.ndarray) -> dict:
    """Return how well novelty distinguishes pictures of no class from photos of the classes.

    Args:
        novelty: of the scored photos.
        outsiders: the novelty of the pictures of no class.
    Returns:
        `pictures`, their number; `refused` and `share_refused`, those called unknown; `auroc`, the
        probability that a picture of no class is more novel than a scored photo.
    """
    from sklearn.metrics import roc_auc_score

    are_outsiders = np.repeat([False, True], [len(novelty), len(outsiders)])
    refused = int(is_unknown(outsiders).sum())
    return {
        "pictures": len(outsiders),
        "refused": refused,
        "share_refused": refused / len(outsiders),
        "auroc": float(roc_auc_score(are_outsiders, np.concatenate([novelty, outsiders]))),
    }
