"""Measure time and memory as the photos grow from 1,000 to 1,000,000.

The photos are the same files under many names; each row is measured in a process of its own.
Memory is the peak of anonymous memory, above what the imports alone take.
"""

import argparse
import dataclasses
import tempfile
import threading
import time
from pathlib import Path

import data
from benchmarks import measuring
from catdog import cli
from catdog.backend import keras, tf
from catdog.files import to_json
from catdog.training.recipe import RECIPES

SIZE = 16  # px in the cache: small, so that 1,000,000 photos need less than a gigabyte
STREAMED_SIZE = 48  # px
COUNTS = (1000, 10_000, 100_000, 1_000_000)


class Peak:
    """Watches the anonymous memory of this process.

    Attributes:
        start: MB before; None if the system does not say.
    """

    def __init__(self):
        self.start = self.most = measuring.anonymous_memory()
        if self.start is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            self.most = max(self.most, measuring.anonymous_memory())
            time.sleep(0.02)

    def above(self) -> float | None:
        """Return the MB by which memory has grown at most."""
        return None if self.start is None else self.most - self.start


def measure(folder: Path) -> dict:
    """Decode the photos under a folder, load them again, stream an epoch; return the seconds."""
    keras.config.backend()  # loaded, so that its memory does not count
    tf.constant(0)
    peak = Peak()

    def load():
        return data.load(str(folder), SIZE, str(folder / "cache"))

    first, _ = measuring.timed(load)
    again, dataset = measuring.timed(load)
    settings = dataclasses.replace(RECIPES["fast"], epochs=1, image_size=STREAMED_SIZE, stages=(1,))
    batches = iter(data.training_batches(measuring.repeated(dataset, 10_000), settings, 0))
    next(batches)  # what follows is without the time to compile
    seconds, streamed = measuring.timed(lambda: sum(len(targets) for _, targets in batches))
    return {
        "photos": len(dataset.paths),
        "first": first,
        "again": again,
        "stream": seconds / streamed * len(dataset.paths),
        "frameworks_own": peak.start,
        "memory": peak.above(),
    }


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "growth", seconds=1200)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(to_json(measure(args.measure)))
        return 0

    budget = measuring.Budget(args)
    _, found, words = measuring.find_photos(args.data_dir)
    rows, next_seconds = [], 0.0
    for count in COUNTS[:2] if args.quick else COUNTS:
        if next_seconds > budget.left():
            cli.say(f"{count:,} photos: left out, as no time is left")
            break
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            measuring.copies(found, count, Path(temporary, "photos"))
            rows.append(measuring.in_a_process("growth", "--measure", f"{temporary}/photos"))
        cli.say(rows[-1])
        work = sum(rows[-1][key] for key in ("first", "again", "stream"))  # the rest is the start
        next_seconds = time.perf_counter() - started + 9 * work
    columns = {"first": "decode", "again": "load again", "stream": "stream to training"}
    counts = [row["photos"] for row in rows]
    series = {key: [row[key] / row["photos"] * 1e6 for row in rows] for key in columns}
    text = [
        f"From {words}; `data.load` at {SIZE} px; TensorFlow's own memory, "
        f"{measuring.shown(rows[0]['frameworks_own'])} MB, does not count.",
        measuring.table(
            ["photos", *(f"ms per 1,000 photos to {name}" for name in columns.values()), "MB"],
            zip(counts, *series.values(), [row["memory"] for row in rows], strict=True),
        ),
    ]

    def draw(axis):
        for key, name in columns.items():
            axis.plot(counts, series[key], "o-", label=name)

    save = measuring.plot("Growth", "photos", "ms per 1,000 photos", draw, logarithmic="xy")
    measuring.write("growth", args, text, {"photos": words, "rows": rows}, save)
    return 0


if __name__ == "__main__":
    cli.run(main)
