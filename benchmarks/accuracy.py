"""Measures the time to 94% of --recipe fast beside two programs that a user would pick instead.

All three get the same training and validation photos. `train.py` is timed from the start of the
process to its end: loading, decoding, training, scoring, export. The Keras example would take
hours: its rate is measured, before and after `train.py`, and multiplied with the epochs that its
published log took to 94%; its start is not counted. The tutorial's network is trained for some
minutes; its published accuracy never reaches 94%.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measuring
from catdog import cli as terminal
from catdog.cli import number, say
from catdog.errors import UserError

GOAL = 0.94


def run_fast(data_dir, folder, more):
    """Runs `train.py --recipe fast` in `folder`.

    Returns:
        A dict. points: [seconds since the start of the process, validation accuracy] after each
        epoch; seconds: until the process ended; metrics: `metrics.json` of the run.
    """
    command = [sys.executable, "train.py", "--recipe", "fast", "--data-dir", str(data_dir),
               "--cache-dir", str(folder / "cache"), "--output", str(folder / "run"), *more]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=measuring.ROOT, env=measuring.environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    points = []
    for line in process.stderr:
        say(line.rstrip())
        if match := re.match(r"epoch .* val_accuracy (\S+)", line):
            points.append([time.perf_counter() - started, float(match[1])])
    if process.wait() != 0:
        raise UserError(f"exit code {process.returncode} of train.py")
    return {"points": points, "seconds": time.perf_counter() - started,
            "metrics": json.loads((folder / "run" / "metrics.json").read_text())}


def reached(points):
    """The seconds after which the goal was first reached, or None."""
    return next((seconds for seconds, accuracy in points if accuracy >= GOAL), None)


def epoch_seconds(peer, sizes):
    """Seconds of an epoch of a program of which the rates were measured, with validation."""
    return (sizes["train"] / peer["images_per_second"]
            + sizes["validation"] / peer["scored_per_second"])


def measure(args, temporary):
    """Trains all three on the same photos: what `write` needs, a dict."""
    import data
    from benchmarks import peers
    from catdog.training.recipe import RECIPES

    data_dir, found, words = measuring.find_photos(args.data_dir)
    if args.quick:
        numbers = measuring.take(found, 1000)
        data_dir = measuring.link(
            found.root, [found.paths[i] for i in numbers], found.classes, found.labels[numbers],
            temporary / "photos")
        words = f"{len(numbers):,} of {words}"
    dataset = data.load(data_dir, RECIPES["fast"].score_size, temporary / "shared")
    sizes = dataset.split_sizes()
    for split in ("train", "validation"):
        members = dataset.splits[split]
        measuring.link(dataset.root, [dataset.paths[i] for i in members], dataset.classes,
                       dataset.labels[members], temporary / "peers" / split)

    def peer(name, flag, value):
        say(f"the program {name}")
        return measuring.in_a_process("peers", name, temporary / "peers", flag, value)

    steps, minutes = (2, 0.01) if args.quick else (4, 2)
    keras = [peer("keras", "--steps", steps)]
    fast = run_fast(Path(data_dir).resolve(), temporary, ["--epochs", "2"] if args.quick else [])
    keras += [] if args.quick else [peer("keras", "--steps", steps)]
    tutorial = peer("tutorial", "--minutes", args.minutes or minutes)

    per_epoch = statistics.median(epoch_seconds(each, sizes) for each in keras)
    epochs = next(epoch for epoch, accuracy in enumerate(peers.KERAS_PUBLISHED, start=1)
                  if accuracy >= GOAL)
    ours, theirs = reached(fast["points"]), per_epoch * epochs
    return {
        "photos": words, "splits": sizes, "fast": fast, "keras": keras, "tutorial": tutorial,
        "goal": GOAL, "seconds_to_goal": ours, "keras_published_epochs": epochs,
        "keras_seconds_an_epoch": per_epoch, "keras_seconds": theirs,
        "ratio_whole_command": theirs / fast["seconds"] if ours else None,
        "ratio_to_goal": theirs / ours if ours else None,
    }


def paragraphs(result):
    """The figures of `measure` in words and a table."""
    from benchmarks import peers

    sizes, fast, tutorial = result["splits"], result["fast"], result["tutorial"]
    (last, accuracy), test = fast["points"][-1], fast["metrics"]["test"]
    minutes, best = max(tutorial["points"], key=lambda point: point[1])
    ours = result["seconds_to_goal"]
    rows = [
        ["`train.py --recipe fast`", sizes["train"] * len(fast["points"]) / last,
         last / len(fast["points"]), f"{ours / 60:.1f} minutes" if ours else "not reached",
         f"{accuracy:.2%} after {last / 60:.1f} minutes",
         f"{test['accuracy']:.2%} after {fast['seconds'] / 60:.1f} minutes, when it ends"],
        ["Keras example", statistics.mean(each["images_per_second"] for each in result["keras"]),
         result["keras_seconds_an_epoch"],
         f"{result['keras_seconds'] / 3600:.1f} hours: {result['keras_published_epochs']} epochs, "
         "as published, at the measured rate",
         f"{max(peers.KERAS_PUBLISHED):.2%} at best, {peers.KERAS_PUBLISHED[-1]:.2%} at last, "
         "as published", ""],
        ["tutorial's network", tutorial["images_per_second"], epoch_seconds(tutorial, sizes),
         "never, as published",
         f"{best:.2%} after {minutes / 60:.1f} minutes; {peers.TUTORIAL_PUBLISHED:.0%} as "
         "published, with 2,000 photos", ""],
    ]
    return [
        f"{result['photos']}: {sizes['train']:,} for training, {sizes['validation']:,} for "
        "validation",
        measuring.table(["program", "photos/s in training", "seconds an epoch",
                         "first over 94% after", "validation accuracy", "test accuracy"], rows),
        f"The Keras example takes {result['ratio_whole_command']:.0f} times as long to 94% as the "
        f"whole command of ours from start to end, and {result['ratio_to_goal']:.0f} times as long "
        "as ours takes to 94%." if ours else "Ours did not reach 94% here, so there is no ratio.",
    ]


def draw(axis, result):
    """Validation accuracy by the clock."""
    from benchmarks import peers

    axis.axhline(100 * GOAL, linestyle="--", color="#52606d")
    curves = {
        "--recipe fast": result["fast"]["points"],
        "tutorial's network": result["tutorial"]["points"],
        "Keras example: published accuracy, measured rate": [
            [epoch * result["keras_seconds_an_epoch"], accuracy]
            for epoch, accuracy in enumerate(peers.KERAS_PUBLISHED, start=1)],
    }
    for label, points in curves.items():
        axis.plot([seconds / 60 for seconds, _ in points],
                  [100 * accuracy for _, accuracy in points], "o-", markersize=4, label=label)


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "accuracy")
    parser.add_argument("--minutes", type=number(0, 600), metavar="M",
                        help="train the tutorial's network so long (default: 2)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(args, Path(temporary))
    save = measuring.plot("Validation accuracy by the clock", "minutes", "accuracy (%)",
                          lambda axis: draw(axis, result), logarithmic="x")
    measuring.write("accuracy", args, paragraphs(result), result, save)
    return 0


if __name__ == "__main__":
    terminal.run(main)
