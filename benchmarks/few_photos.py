"""Measures what --init brings with few photos: trains on small folders from scratch and from a run.

    python -m benchmarks.few_photos --data-dir DIR --init weights

Three tasks of two classes, each a folder in a temporary place, split into train, validation and
test. The photos are those of the test split of DIR, Dogs vs. Cats, which weights/ never saw; the
classes have names of their own, so that the output layer starts afresh:

    animals    the same cats and dogs: what --init can give at most
    upright    the same photos, but the question is another: upright or upside down
    drawings   the animals again, but drawn by demo.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import data
from catdog import cli as terminal
from catdog.cli import say, whole_number
from catdog.errors import UserError
from catdog.photos import drawings as demo
from catdog.photos import photo as photos

ROOT = Path(__file__).parent.parent

VALIDATION, TEST = 50, 500  # photos a class, at most of the latter


def make_animals(folder, splits):
    for split, cats_and_dogs in splits.items():
        for name, paths in zip(("a cat", "a dog"), cats_and_dogs, strict=True):
            for path in paths:
                photos.open_photo(path).save(make(folder, split, name, path.stem), quality=95)


def make_upright(folder, splits):
    """Half of the cats and half of the dogs upside down, saved in the same way as the others."""
    for split, cats_and_dogs in splits.items():
        for paths in cats_and_dogs:
            for number, path in enumerate(paths):
                name = ("upright", "upside down")[number % 2]
                photo = photos.open_photo(path).rotate(180 * (number % 2))
                photo.save(make(folder, split, name, path.stem), quality=95)


def make_drawings(folder, splits):
    for split, cats_and_dogs in splits.items():
        for label, (name, paths) in enumerate(zip(("a cat", "a dog"), cats_and_dogs, strict=True)):
            for number in range(len(paths)):
                rng = np.random.default_rng([data.SPLITS.index(split), label, number])
                demo.draw(label, rng, 128).save(make(folder, split, name, str(number)), quality=95)


def make(folder, split, name, stem):
    """The path for a photo; its folder is made."""
    (folder / split / name).mkdir(parents=True, exist_ok=True)
    return folder / split / name / f"{stem}.jpg"


def held_out(dataset, per_class):
    """Paths of the test split: {split: [of cats, of dogs]}, `per_class` of each for training."""
    splits = {split: [] for split in data.SPLITS}
    for label in range(2):
        members = [i for i in dataset.splits["test"] if dataset.labels[i] == label]
        members = np.random.default_rng(0).permutation(members)[: per_class + VALIDATION + TEST]
        if len(members) < per_class + 2 * VALIDATION:
            raise UserError(f"--data-dir: expected {per_class + 2 * VALIDATION} or more photos of "
                            f"{dataset.classes[label]} in its test split, got {len(members)}")
        paths = [dataset.root / dataset.paths[i] for i in members]
        parts = np.split(np.array(paths, object), [per_class, per_class + VALIDATION])
        for split, part in zip(data.SPLITS, parts, strict=True):
            splits[split].append(part)
    return splits


TASKS = {"animals": make_animals, "upright": make_upright, "drawings": make_drawings}


def train(folder, flags):
    """The metrics of a run of train.py on a folder."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [sys.executable, ROOT / "train.py", "--data-dir", folder, "--cache-dir",
                   folder / "cache", "--output", run, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads((run / "metrics.json").read_text())


def main(argv=None):
    parser = argparse.ArgumentParser(description="Measures what --init brings with few photos.")
    add = parser.add_argument
    add("--data-dir", default="tmp", metavar="DIR", help="Dogs vs. Cats (default: tmp)")
    add("--cache-dir", default="tmp/cache", metavar="DIR", help="default: tmp/cache")
    add("--init", default=str(ROOT / "weights"), metavar="RUN", help="default: weights")
    add("--photos", type=whole_number(10), default=100, metavar="N",
        help="of each class for training (default: 100)")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK",
        help=f"of {', '.join(TASKS)} (default: all)")
    add("flags", nargs="*", metavar="FLAG", help="after --, further flags of train.py")
    args = parser.parse_args(argv)
    splits = held_out(data.load(args.data_dir, 32, args.cache_dir), args.photos)
    print("| task | start | test accuracy (95% interval) | log loss | minutes of training |")
    print("|---|---|---|---|---|")
    for task in args.tasks:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            TASKS[task](folder, splits)
            for start, flags in (("from scratch", []), ("--init", ["--init", args.init])):
                say(f"{task}, {start}")
                metrics = train(folder, [*flags, *args.flags])
                test = metrics["test"]
                print(f"| {task} | {start} | {test['accuracy']:.1%} ({test['accuracy_low']:.1%} to "
                      f"{test['accuracy_high']:.1%}, {test['images']:,} photos) "
                      f"| {test['log_loss']:.3f} | {metrics['training_seconds'] / 60:.1f} |",
                      flush=True)
    return 0


if __name__ == "__main__":
    terminal.run(main)
