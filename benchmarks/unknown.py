"""Measures which pictures of no class are called unknown, for each kind of picture.

    python -m benchmarks.unknown --model RUN --data-dir DIR --other FOLDER [FOLDER ...]

The kinds are drawn pictures, pictures that installed packages carry (scikit-image, scikit-learn,
matplotlib), and those in FOLDER, one kind for each folder in it, or FOLDER itself. Prints a
Markdown table. "Novelty" is what predict.py does. "Confidence" is what can be done without it: call
a photo unknown if its probability is low, with the limit that refuses 1% of the test photos too.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks import outsiders
from catdog import cli
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos.photo import PhotoError, find_files, load_photo
from catdog.runs import novelty

PICTURES = 100  # of each drawn kind
BATCH = 32  # photos

# Takes uint8 (n, size, size, 3); returns "probabilities" and "novelty", as Classifier.outputs.
Outputs = Callable[[np.ndarray], dict[str, np.ndarray]]


def square(image: Image.Image, size: int) -> np.ndarray:
    """Return a picture as predict.py would read it from a file, uint8 (size, size, 3)."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return load_photo(file.getvalue(), size)


def kinds(folders: list[str], size: int, pictures: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, uint8 (n, size, size, 3)) for each kind of picture."""
    for folder in folders:
        below = sorted(path for path in Path(folder).iterdir() if path.is_dir())
        for kind in below or [Path(folder)]:
            found = list(_readable(kind, size))
            if not found:
                raise UserError(f"expected pictures, got none in {printable(kind)}")
            yield kind.name, np.stack(found)
    packages = (("photos", outsiders.PHOTOS), ("other pictures", outsiders.PICTURES))
    for name, files in packages:
        found = outsiders.carried(files)
        if found:
            yield f"{name} in packages", np.stack([square(image, size) for image in found])
    for kind in outsiders.DRAWN:
        drawn = outsiders.drawn(kind, pictures)
        yield f"drawn: {kind}", np.stack([square(image, size) for image in drawn])


def _readable(folder, size):
    for path in sorted(find_files(folder)):
        try:
            yield load_photo(path, size)
        except PhotoError as error:
            cli.say(f"{printable(path)}: {error}")


def scores(images: np.ndarray, outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the doubt (1 minus the highest probability) and the novelty of images, both (n,)."""
    doubt, novel = [], []
    for start in range(0, len(images), BATCH):
        found = outputs(images[start : start + BATCH])
        doubt.append(1 - found["probabilities"].max(axis=1))
        novel.append(found["novelty"])
    return np.concatenate(doubt), np.concatenate(novel)


def row(name: str, known: tuple, others: tuple) -> list[str]:
    """Return the cells of a kind: its name, number, refused at 1% and AUROC, twice.

    Args:
        known, others: (doubt, novelty) of the test photos and of the kind, as `scores` gives.
    """
    doubt_limit = np.quantile(known[0], 0.99)
    cells = [name, f"{len(others[0]):,}"]
    for refused, before, after in (
        (others[0] > doubt_limit, known[0], others[0]),
        (novelty.is_unknown(others[1]), known[1], others[1]),
    ):
        are_others = np.repeat([False, True], [len(before), len(after)])
        auroc = roc_auc_score(are_others, np.concatenate([before, after]))
        cells += [f"{refused.mean():.0%}", f"{auroc:.3f}"]
    return cells


HEAD = ["", "pictures", "confidence: refused", "AUROC", "novelty: refused", "AUROC"]


def markdown(rows: list[list[str]]) -> str:
    """Return `rows` as a Markdown table below `HEAD`."""
    lines = [HEAD, ["---"] + ["---:"] * (len(HEAD) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unknown",
        description="Measures which pictures of no class are called unknown.",
        parents=[cli.data_arguments()],
    )
    add = parser.add_argument
    add("--model", metavar="RUN", help="a run directory that train.py wrote (default: weights)")
    add("--other", nargs="+", default=[], metavar="FOLDER", help="pictures of no class")
    add("--quick", action="store_true", help="fewer pictures, to see that it works")
    args = parser.parse_args(argv)
    # Imported here: they load TensorFlow.
    import data
    import model
    from catdog.runs.classifier import Classifier

    with cli.blame("--model"):
        classifier = Classifier(args.model, model.load)
        if not classifier.run.has_novelty:
            raise UserError(f"expected a run with novelty, got {classifier.run}")
    dataset = data.load(args.data_dir, classifier.score_size, args.cache_dir, [])
    members = dataset.members_of("test")[: 200 if args.quick else None]

    def score(images):
        return scores(images, classifier.outputs)

    parts = [score(batch) for batch in dataset.batches(members, BATCH)]
    known = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    rows = [row("test photos", known, known)]
    with cli.blame("--other"):
        for name, images in kinds(
            args.other, classifier.score_size, 10 if args.quick else PICTURES
        ):
            rows.append(row(name, known, score(images)))
            cli.say(" ".join(rows[-1]))
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    cli.run(main)
