"""Predictions as lines of text, cells with tabs between or JSON, and as folders of copies.

    path    label    probability    ...    novelty

All lines of one call have the same number of cells. A cell that says nothing is empty: an unknown
photo has no probability, and a run without novelty has none.
"""

import collections
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from catdog import cli, files
from catdog.errors import UserError
from catdog.files import printable, to_json
from catdog.photos.photo import read_bytes
from catdog.runs.classifier import Prediction

COLOURS = ("36", "33", "35", "32", "34", "31")  # of the classes, in turn
RESERVED = ("unknown", "unsure")  # what is said of a photo instead of a class


def answered(batches: Iterable[list[Prediction]]) -> Iterator[Prediction]:
    """Yield the predictions of `Classifier.batches`; say what cannot be read."""
    for batch in batches:
        for prediction in batch:
            if prediction.error:
                cli.say(f"{prediction.path}: {prediction.error}")
            yield prediction
        sys.stdout.flush()


def shown(name: str) -> str:
    """Return the name of a class as it is printed, "unknown (class)" for one called unknown."""
    return printable(name) + (" (class)" if name.strip().casefold() in RESERVED else "")


def listed(prediction: Prediction, threshold: float | None, top: int | None) -> list[str]:
    """Return the classes that are listed, the most probable first; none of an unknown photo.

    Args:
        threshold: the least probability; None for any.
        top: how many at most; None for one without a threshold, and for all with it.
    """
    if prediction.unknown:
        return []
    order = sorted(prediction, key=prediction.get, reverse=True)
    if threshold is not None:
        order = [name for name in order if prediction[name] >= threshold]
    return order[: _most(prediction, threshold, top)]


def _most(prediction, threshold, top) -> int:
    """Return how many classes a line has room for."""
    return min(len(prediction), top or (1 if threshold is None else len(prediction)))


def text(
    prediction: Prediction,
    threshold: float | None = None,
    top: int | None = None,
    colour: bool = False,
) -> str:
    """Return the line of a photo; with a threshold the first label is marked with *."""

    def styled(text, code):
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    classes, mark, cells = list(prediction), "" if threshold is None else "*", []
    for name in listed(prediction, threshold, top):
        code = f"1;{COLOURS[classes.index(name) % len(COLOURS)]}"
        cells += [mark + styled(shown(name), code), f"{prediction[name]:.4f}"]
        mark = ""
    if not cells:
        cells = [styled("unknown" if prediction.unknown else "unsure", "2"), ""]
    cells += [""] * (2 * _most(prediction, threshold, top) - len(cells))
    novelty = "" if prediction.novelty is None else f"{prediction.novelty:.4f}"
    return "\t".join([printable(prediction.path), *cells, novelty])


def json(prediction: Prediction, threshold: float | None = None, top: int | None = None) -> str:
    """Return the JSON object of a photo."""
    path = os.fsdecode(prediction.path)
    if any("\ud800" <= character <= "\udfff" for character in path):
        path = printable(path)  # bytes that are no text: JSON cannot hold them
    if prediction.error:
        return to_json({"path": path, "error": str(prediction.error)})
    unsure = threshold is not None and prediction.probability < threshold
    line = {
        "path": path,
        "label": None if unsure else prediction.label,
        "probability": prediction.probability,
        "probabilities": prediction.probabilities,
    }
    if prediction.novelty is not None:
        line |= {"unknown": prediction.unknown, "novelty": prediction.novelty}
    if threshold is not None or top:
        line["labels"] = listed(prediction, threshold, top)
    return to_json(line)


class Copies:
    """Copies photos into `folder`/label, /unknown or /unsure.

    Attributes:
        count: how many there are of each label.
    """

    def __init__(self, folder: Path, threshold: float | None = None):
        self.folder, self.threshold, self.count = folder, threshold, collections.Counter()

    def write(self, prediction: Prediction) -> None:
        """Copy a photo, under another name if there is a file of its name."""
        path = prediction.path
        if Path(path).resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"expected a folder outside the photos, got {self.folder}")
        labels = listed(prediction, self.threshold, 1)
        label = "unknown" if prediction.unknown else labels[0] if labels else "unsure"
        if labels and label.casefold() in RESERVED:
            label = shown(label)
        name, ending = os.path.splitext(os.path.basename(path))
        target, count = self.folder / label / f"{name}{ending}", 1
        while os.path.lexists(target):
            count += 1
            target = self.folder / label / f"{name}-{count}{ending}"
        content = read_bytes(path)
        with files.atomic_file(target, make_folder=True) as temporary:
            temporary.write_bytes(content)
            shutil.copystat(path, temporary)
        self.count[label] += 1

    def __str__(self) -> str:
        each = ", ".join(f"{n:,} in {printable(name)}" for name, n in sorted(self.count.items()))
        return f"copies in {printable(self.folder)}: {self.count.total():,} ({each or 'none'})"
