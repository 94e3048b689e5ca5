"""Measure what --init brings with few photos: train on small folders from scratch and from a run.

    python -m benchmarks.few_photos --data-dir DIR --init weights

Three tasks of two classes, each split into train, validation and test. The photos are those of the
test split of DIR, Dogs vs. Cats, which weights/ never saw; the classes have names of their own, so
that the output layer starts afresh:

    animals    the same cats and dogs: the most that --init can bring
    upright    the same photos, but another question: upright or upside down
    drawings   cats and dogs that are drawn
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import data
from benchmarks import measuring
from catdog import cli
from catdog.errors import UserError
from catdog.photos import drawings, labels, photo
from catdog.runs.run import WEIGHTS

VALIDATION, TEST = 50, 500  # photos per class, at most of the latter


def animal(path: Path, label: int, number: int, side: int) -> tuple[str, Image.Image]:
    return ("a cat", "a dog")[label], photo.open_photo(path)


def upright(path: Path, label: int, number: int, side: int) -> tuple[str, Image.Image]:
    """Turn half of the cats and half of the dogs upside down."""
    turned = number % 2
    return ("upright", "upside down")[turned], photo.open_photo(path).rotate(180 * turned)


def drawing(path: Path, label: int, number: int, side: int) -> tuple[str, Image.Image]:
    rng = np.random.default_rng([side, label, number])
    return ("a cat", "a dog")[label], drawings.draw(label, rng, 128)


# Functions of a photo's path, label (0: cat, 1: dog), number within its class and split, and index
# of the split. They return the class and the image.
TASKS = {"animals": animal, "upright": upright, "drawings": drawing}


def held_out(dataset: data.Dataset, per_class: int) -> list[list[np.ndarray]]:
    """Return the paths of photos of the test split: for each of `SPLITS`, those of each class.

    Args:
        per_class: number of photos of each class for training.
    Raises:
        UserError: too few photos.
    """
    splits = [[], [], []]
    for label in range(2):
        members = [i for i in dataset.splits["test"] if dataset.labels[i] == label]
        members = np.random.default_rng(0).permutation(members)[: per_class + VALIDATION + TEST]
        if len(members) < per_class + 2 * VALIDATION:
            raise UserError(
                f"expected {per_class + 2 * VALIDATION} or more photos of "
                f"{dataset.classes[label]} in its test split, got {len(members)}",
                "--data-dir",
            )
        paths = np.array([dataset.root / dataset.paths[i] for i in members], object)
        parts = np.split(paths, [per_class, per_class + VALIDATION])
        for side, part in zip(splits, parts, strict=True):
            side.append(part)
    return splits


def make(task: str, splits: list[list[np.ndarray]], folder: Path) -> None:
    """Write the photos of a task, all saved in the same way."""
    for side, (split, classes) in enumerate(zip(data.SPLITS, splits, strict=True)):
        for label, paths in enumerate(classes):
            for number, path in enumerate(paths):
                name, image = TASKS[task](path, label, number, side)
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                image.save(folder / split / name / f"{label}-{number}.jpg", quality=95)


def train(folder: Path, flags: list[str]) -> dict:
    """Run train.py on a folder; return its metrics."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary, "run")
        command = [sys.executable, "train.py", "--data-dir", folder, "--cache-dir"]
        command += [folder / "cache", "--output", output, *flags]
        subprocess.run(
            command,
            check=True,
            cwd=measuring.ROOT,
            env=measuring.environment(),
            stdout=subprocess.DEVNULL,
        )
        return json.loads((output / "metrics.json").read_text())


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.few_photos",
        description=__doc__.splitlines()[0],
        parents=[cli.data_arguments()],
    )
    add = parser.add_argument
    add("--init", default=str(WEIGHTS), metavar="RUN", help="default: weights")
    add(
        "--photos",
        type=cli.whole_number(10),
        default=100,
        metavar="N",
        help="photos of each class for training (default: 100)",
    )
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK",
        help=f"of {', '.join(TASKS)} (default: all)")  # fmt: skip
    add("flags", nargs="*", metavar="FLAG", help="after --, further flags of train.py")
    args = parser.parse_args(argv)
    with cli.blame("--exclude"):
        exclude = labels.read_names(args.exclude)
    splits = held_out(data.load(args.data_dir, 32, args.cache_dir, exclude), args.photos)
    rows = []
    for task in args.tasks:
        with tempfile.TemporaryDirectory() as folder:
            make(task, splits, Path(folder))
            init = ["--init", str(Path(args.init).resolve())]
            for start, flags in (("from scratch", []), ("--init", init)):
                cli.say(f"{task}, {start}")
                metrics = train(Path(folder), [*flags, *args.flags])
                test = metrics["test"]
                interval = f"{test['accuracy_low']:.1%} to {test['accuracy_high']:.1%}"
                accuracy = f"{test['accuracy']:.1%} ({interval}, {test['images']:,} photos)"
                loss, minutes = f"{test['log_loss']:.3f}", metrics["training_seconds"] / 60
                rows.append([task, start, accuracy, loss, f"{minutes:.1f}"])
                cli.say(" ".join(rows[-1]))
    head = ["task", "start", "test accuracy (95% interval)", "log loss", "minutes of training"]
    print(measuring.table(head, rows))
    return 0


if __name__ == "__main__":
    cli.run(main)
