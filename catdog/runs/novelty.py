"""How unlike the training photos a photo is, so that a picture of no class can be called unknown.

A network that knows cats and dogs only names a flower with confidence. Its features say more than
its probabilities: the detectors of ears, eyes and fur respond weakly, and in another combination
than on any training photo. A photo's score is the sum of two numbers, each standardized on the
validation photos:

    distance    1 minus the cosine between its inner features and the most similar ones among those
                of up to 500 training photos per class
    weakness    minus the logarithm of the length of its last features

Its novelty is the share of the validation photos that have a lower score. docs/unknown.md has the
figures. Nothing is tuned by hand: a new network needs nothing but `fit`.

Features: float (n, 2 * width), not negative. The first half are the inner features: per channel,
the root mean square over all positions of an inner feature map. The second half are the last ones:
per channel, the maximum over all positions of the last feature map.
"""

import dataclasses
import functools
import logging
import os
import zipfile
from pathlib import Path

import numpy as np

from catdog.errors import UserError
from catdog.files import atomic_file, check_regular, printable

logger = logging.getLogger(__name__)

FILE = "novelty.npz"  # in a run directory
DEFAULT_LIMIT = 0.99  # of the novelty, from which on a photo is called unknown
VERSION = 1  # of the file

PHOTOS_PER_CLASS = 500  # at most, to compare with; 125 or 2,000 are as good
MAX_PHOTOS = 2_000  # of all classes: 0.5 MB if the inner features are 256 wide
MAX_SCORES = 10_000  # of validation photos
MIN_VALIDATION = 100  # photos: fewer do not say where the most novel 1% begin
MAX_BYTES = 4 * 2**20  # of a file that is loaded

# In standard deviations. One part that is unusually familiar makes up for the other only down to
# here: a picture whose last features are ten times too long must not pass for that reason. From
# -0.5 down, the figures on photos do not change.
MOST_FAMILIAR = -1.0
TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class Reference:
    """What novelty is measured against."""

    # Inner features of training photos, uint8 (n, width), each scaled to a maximum of 255. Only
    # their direction is used.
    photos: np.ndarray
    mean: np.ndarray  # float64 (2,), of the two parts of the score on the validation photos
    deviation: np.ndarray  # the same
    scores: np.ndarray  # of the validation photos, float64 (m,), ascending
    network: str  # what identifies the network whose features these are

    def novelty(self, features: np.ndarray) -> np.ndarray:
        """Return for each photo the share of validation photos of a lower score, float (n,)."""
        return np.searchsorted(self.scores, self.score(features), side="left") / len(self.scores)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return the scores behind `novelty`, float64 (n,): the more unlike, the higher.

        Raises:
            ValueError: the features are not (n, 2 * width).
        """
        width = self.photos.shape[1]
        if features.ndim != 2 or features.shape[1] != 2 * width:
            raise ValueError(f"expected features (n, {2 * width}), got {features.shape}")
        parts = (_parts(features, self._directions) - self.mean) / self.deviation
        return parts.clip(MOST_FAMILIAR).sum(axis=1)

    @functools.cached_property
    def _directions(self):
        return _unit(self.photos)

    def save(self, path: Path) -> None:
        """Write the reference atomically to a file of 0.6 MB at most, or 0.3 MB for two classes."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, version=VERSION, **arrays)

    @classmethod
    def load(cls, path: Path, network: str) -> "Reference":
        """Return the reference that was saved for `network`.

        Args:
            path: a file that `save` wrote, or anybody else: its content is checked.
            network: what identifies the network that the features come from.
        Raises:
            UserError: the file cannot be read, is damaged, or belongs to another network.
        """
        try:
            arrays = _read(path)
            reference = cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})
            version = int(arrays["version"])
            reference = dataclasses.replace(reference, network=str(reference.network))
        except OSError as error:
            raise UserError(f"cannot read {printable(path)}: {error.strerror or error}") from None
        except Exception:  # on changed bytes, NumPy and zipfile raise many kinds
            raise UserError(f"{printable(path)} is damaged") from None
        if version != VERSION:
            raise UserError(f"{printable(path)} was written by another version of this program")
        if reference.network != network:
            raise UserError(f"{printable(path)} belongs to another network")
        return reference._checked(path)

    def _checked(self, path):
        """Return the reference, or raise UserError if the arrays cannot be those of one."""
        arrays = (self.mean, self.deviation, self.scores)
        good = (
            self.photos.dtype == np.uint8
            and self.photos.ndim == 2
            and min(self.photos.shape) > 0
            and all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays)
            and self.mean.shape == self.deviation.shape == (2,)
            and (self.deviation > 0).all()
            and self.scores.ndim == 1
            and len(self.scores) > 0
            and (np.diff(self.scores) >= 0).all()
        )
        if not good:
            raise UserError(f"{printable(path)} is damaged")
        return self


def network_id(config: dict) -> str:
    """Return what identifies the network of a run that has this `config.json`."""
    return config.get("litert_sha256") or "keras"


def load(folder: Path, config: dict) -> Reference | None:
    """Return the reference of a run, or None if it has none; warn if it cannot be used.

    Args:
        folder: the run directory.
        config: its config.json.
    """
    path = Path(folder) / FILE
    if not os.path.lexists(path):
        return None
    try:
        return Reference.load(path, network_id(config))
    except UserError as error:
        logger.warning(f"{error}: no photo is called unknown")
        return None


def _read(path):
    """Return the arrays in the file, {name: array}, none of them larger than `MAX_BYTES`."""
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise ValueError("too large")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


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


def fit(features: np.ndarray, validation_features: np.ndarray, network: str) -> Reference | None:
    """Return the reference for a network, or None with fewer than 100 validation photos.

    Both features must come from the program that will predict, that is, from the exported network
    with its eight-bit weights and the average over the mirror image.

    Args:
        features: of the training photos that `choose` names.
        validation_features: of all validation photos.
        network: what identifies the network, such as the digest of its exported file.
    """
    if len(validation_features) < MIN_VALIDATION or len(features) == 0:
        return None
    inner, _ = np.split(features, 2, axis=1)
    largest = np.maximum(inner.max(axis=1, keepdims=True), TINY)
    photos = np.round(inner.clip(0) / largest * 255).astype(np.uint8)
    parts = _parts(validation_features, _unit(photos))
    reference = Reference(
        photos=photos,
        mean=parts.mean(axis=0),
        deviation=np.maximum(parts.std(axis=0), TINY),
        scores=np.zeros(0),
        network=network,
    )
    scores = np.sort(reference.score(validation_features))
    places = np.linspace(0, len(scores) - 1, min(len(scores), MAX_SCORES)).round().astype(int)
    return dataclasses.replace(reference, scores=scores[places])


def _parts(features, directions):
    """Return distance and weakness, float64 (n, 2), before they are standardized."""
    inner, last = np.split(np.asarray(features, np.float32), 2, axis=1)
    # Not `@`: the threads of OpenBLAS wait in a loop for more, and LiteRT took 1.8 times as long.
    cosine = np.einsum("iw,jw->ij", _unit(inner), directions)
    distance = 1 - cosine.max(axis=1)
    weakness = -np.log(np.linalg.norm(last, axis=1).clip(TINY))
    return np.stack([distance, weakness], axis=1).astype(float)


def _unit(vectors):
    """Return each row, scaled to length 1, in float32."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(TINY)


# --- Decision and figures -------------------------------------------------------------------------


def is_unknown(novelty: np.ndarray, limit: float = DEFAULT_LIMIT) -> np.ndarray:
    """Return where the novelty reaches `limit`, bool of the same shape; a limit of 1 switches off.

    With the default, 1% of the photos that are like the validation photos are called unknown.
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
