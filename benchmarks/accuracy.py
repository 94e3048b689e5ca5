"""Measure the time to 94% of --recipe fast beside two programs that a user would pick instead.

All three get the same training and validation photos. `train.py` is timed from the start of the
process to its end: loading, decoding, training, scoring, export. The Keras example would take
hours: its rate is measured, before and after `train.py`, and multiplied by the epochs that its
published log took to 94%; its start is not counted. The tutorial's network is trained for as long
as --seconds says; its published accuracy never reaches 94%.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import data
from benchmarks import measuring
from catdog import cli
from catdog.errors import UserError
from catdog.runs.run import Run
from catdog.training.recipe import RECIPES

GOAL = 0.94
# Validation accuracy after each epoch, as published with the Keras example.
KERAS_PUBLISHED = [
    0.4957, 0.4957, 0.4957, 0.7520, 0.8545, 0.8825, 0.9135, 0.9227, 0.9178, 0.9107, 0.8768, 0.8419,
    0.8456, 0.9417, 0.9406, 0.9054, 0.9378, 0.9432, 0.8904, 0.9182, 0.8751, 0.9551, 0.9299, 0.9575,
    0.8710,
]  # fmt: skip
TUTORIAL_PUBLISHED = 0.82  # after 100 epochs on 2,000 photos
QUICK_PHOTOS, QUICK_BATCH = 400, 16  # a step of 128 photos can take the Keras example a minute


def run_fast(data_dir: Path, folder: Path, more: list[str]) -> dict:
    """Run `train.py --recipe fast` in `folder`.

    Returns:
        A dict. points: [seconds since the start of the process, validation accuracy] after each
        epoch; seconds: until the process ended; metrics: `metrics.json` of the run.
    """
    output = folder / "run"
    command = [sys.executable, "train.py", "--recipe", "fast", "--data-dir", str(data_dir)]
    command += ["--cache-dir", str(folder / "cache"), "--output", str(output), *more]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=measuring.ROOT, env=measuring.environment(), stdout=subprocess.DEVNULL
    )
    points = []
    while process.poll() is None:
        rows = Run(output).history()  # train.py writes it anew after each epoch
        now = time.perf_counter() - started
        points += [[now, float(row["val_accuracy"])] for row in rows[len(points) :]]
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise UserError(f"exit code {process.returncode} of train.py")
    metrics = json.loads((output / "metrics.json").read_text())
    return {"points": points, "seconds": seconds, "metrics": metrics}


def reached(points: list) -> float | None:
    """Return the seconds after which the goal was first reached, or None."""
    return next((seconds for seconds, accuracy in points if accuracy >= GOAL), None)


def epoch_seconds(peer: dict, sizes: dict[str, int]) -> float:
    """Return the seconds of an epoch with validation, from the measured rates of a program."""
    training = sizes["train"] / peer["images_per_second"]
    return training + sizes["validation"] / peer["scored_per_second"]


def measure(args, temporary: Path) -> dict:
    """Train all three on the same photos; return what `paragraphs` and `draw` need."""
    budget = measuring.Budget(args)
    data_dir, found, words = measuring.find_photos(args.data_dir)
    if args.quick:
        data_dir = temporary / "photos"
        measuring.copies(found, QUICK_PHOTOS, data_dir)
        words = f"{QUICK_PHOTOS} of {words}"
    score_size = RECIPES["fast"].score_size
    dataset = data.load(str(data_dir), score_size, str(temporary / "shared"))
    sizes = dataset.split_sizes()
    for split in ("train", "validation"):
        members = dataset.splits[split]
        paths, labels = [dataset.paths[i] for i in members], dataset.labels[members]
        measuring.link(dataset.root, paths, dataset.classes, labels, temporary / "peers" / split)

    def peer(name, seconds):
        cli.say(f"the program {name}")
        batch = ["--batch-size", QUICK_BATCH] if args.quick else []
        return measuring.in_a_process(
            "peers", name, temporary / "peers", "--seconds", seconds, *batch
        )

    keras = [peer("keras", budget.seconds / 10)]
    fast = run_fast(Path(data_dir).resolve(), temporary, ["--epochs", "2"] if args.quick else [])
    if not args.quick:
        keras.append(peer("keras", budget.seconds / 10))
    tutorial = None
    if budget.left() or not args.quick:
        tutorial = peer("tutorial", budget.seconds / 10 if args.quick else budget.seconds)
    else:
        cli.say("the tutorial's network: left out, as no time is left")
    per_epoch = statistics.median(epoch_seconds(each, sizes) for each in keras)
    epochs = next(i for i, accuracy in enumerate(KERAS_PUBLISHED, start=1) if accuracy >= GOAL)
    return {
        "photos": words,
        "splits": sizes,
        "fast": fast,
        "keras": keras,
        "tutorial": tutorial,
        "goal": GOAL,
        "seconds_to_goal": reached(fast["points"]),
        "keras_published_epochs": epochs,
        "keras_seconds_per_epoch": per_epoch,
        "keras_seconds": per_epoch * epochs,
    }


def paragraphs(result: dict) -> list[str]:
    """Return the figures as sentences and a table."""
    sizes, fast, tutorial = result["splits"], result["fast"], result["tutorial"]
    (last, accuracy), test = fast["points"][-1], fast["metrics"]["test"]
    ours, theirs = result["seconds_to_goal"], result["keras_seconds"]
    rows = [
        [
            "`train.py --recipe fast`",
            sizes["train"] * len(fast["points"]) / last,
            f"{ours / 60:.1f} minutes" if ours else "not reached",
            f"{accuracy:.2%} after {last / 60:.1f} minutes",
        ],
        [
            "Keras example",
            statistics.mean(each["images_per_second"] for each in result["keras"]),
            f"{theirs / 3600:.1f} hours: {result['keras_published_epochs']} epochs, as published",
            f"{max(KERAS_PUBLISHED):.2%} at best, as published",
        ],
    ]
    if tutorial:
        seconds, best = max(tutorial["points"], key=lambda point: point[1])
        rows.append(
            [
                "tutorial's network",
                tutorial["images_per_second"],
                "never, as published",
                f"{best:.2%} after {seconds / 60:.1f} minutes; {TUTORIAL_PUBLISHED:.0%} as "
                "published, with 2,000 photos",
            ]
        )
    head = ["program", "photos/s in training", "first over 94% after", "validation accuracy"]
    text = [
        f"{result['photos']}: {sizes['train']:,} for training, {sizes['validation']:,} for "
        "validation",
        measuring.table(head, rows),
        f"`train.py` ends after {fast['seconds'] / 60:.1f} minutes, with a test accuracy of "
        f"{test['accuracy']:.2%}.",
    ]
    if ours:
        text[-1] += (
            f" The Keras example takes {theirs / fast['seconds']:.0f} times as long to 94% as this "
            f"whole command, and {theirs / ours:.0f} times as long as `train.py` to 94%."
        )
    return text


def draw(axis, result: dict) -> None:
    """Draw validation accuracy over time."""
    axis.axhline(100 * GOAL, linestyle="--", color="#52606d")
    per_epoch = result["keras_seconds_per_epoch"]
    curves = {
        "--recipe fast": result["fast"]["points"],
        "tutorial's network": result["tutorial"]["points"] if result["tutorial"] else [],
        "Keras example: published accuracy, measured rate": [
            (epoch * per_epoch, accuracy) for epoch, accuracy in enumerate(KERAS_PUBLISHED, start=1)
        ],
    }
    for label, points in curves.items():
        if points:
            seconds, accuracies = np.array(points).T
            axis.plot(seconds / 60, 100 * accuracies, "o-", label=label)


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "accuracy", seconds=200)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(args, Path(temporary))
    save = measuring.plot(
        "Validation accuracy over time",
        "minutes",
        "accuracy (%)",
        lambda axis: draw(axis, result),
        logarithmic="x",
    )
    measuring.write("accuracy", args, paragraphs(result), result, save)
    return 0


if __name__ == "__main__":
    cli.run(main)
