"""Measures time and memory as the photos grow from 1,000 to 100,000, and the index at 1,000,000.

The photos are the same files under many names; every row is a process of its own. Memory is
anonymous memory, the most at any time, above what the imports alone take.
"""

import argparse
import hashlib
import os
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import measuring
from catdog import cli as terminal
from catdog.cli import whole_number
from catdog.scores import metrics as report

SIZE = 48  # px; small, so that 100,000 photos need 0.7 GB of disk


class Peak:
    """Watches the anonymous memory of this process: `peak.above()` is the most, in MB."""

    def __init__(self):
        self.start = self.most = measuring.anonymous_memory()
        if self.start is not None:
            threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            self.most = max(self.most, measuring.anonymous_memory())
            time.sleep(0.02)

    def above(self):
        return None if self.start is None else self.most - self.start


def measure(folder, photos):
    """Decodes the photos under a folder, loads them again, and streams an epoch: a dict."""
    import dataclasses

    import data
    from catdog.training.recipe import RECIPES

    epochs = max(1, 10_000 // photos)
    settings = dataclasses.replace(RECIPES["fast"], epochs=epochs, image_size=SIZE)
    peak = Peak()
    first, _ = measuring.timed(lambda: data.load(folder, SIZE, folder / "cache"))
    again, dataset = measuring.timed(lambda: data.load(folder, SIZE, folder / "cache"))

    batches = iter(data.training_batches(dataset, settings))
    next(batches)  # what follows is without the time to compile
    seconds, streamed = measuring.timed(lambda: sum(len(targets) for _, targets in batches))
    return {"photos": photos, "first": first, "again": again, "stream": seconds,
            "streamed": streamed, "frameworks_own": peak.start, "memory": peak.above()}


def measure_index(folder, photos):
    """The index alone: no photo is decoded, each has one grey pixel and a digest of its name."""
    import data
    from catdog.photos import cache

    cache._decode = lambda path, size: (
        b"\x80\x80\x80", hashlib.blake2b(os.fsencode(path), digest_size=16).digest(), None)
    peak = Peak()
    first, _ = measuring.timed(lambda: data.load(folder, 1, folder / "cache"))
    again = [measuring.timed(lambda: data.load(folder, 1, folder / "cache"))[0] for _ in range(3)]
    return {"photos": photos, "first": first, "again": measuring.spread(again)["median"],
            "frameworks_own": peak.start, "memory": peak.above()}


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "growth")
    parser.add_argument("--index", type=whole_number(1000), metavar="N",
                        help="photos in the index (default: 1,000,000; --quick: 100,000)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        kind, folder, photos = args.measure
        way = {"photos": measure, "index": measure_index}[kind]
        print(report.to_json(way(Path(folder), int(photos))))
        return 0

    _, found, words = measuring.find_photos(args.data_dir)
    counts = [1000, 10_000] if args.quick else [1000, 10_000, 100_000]
    index = args.index or (100_000 if args.quick else 1_000_000)
    rows = []
    for count, kind in [*((count, "photos") for count in counts), (index, "index")]:
        with tempfile.TemporaryDirectory() as folder:
            measuring.copies(found, count, Path(folder) / "photos")
            rows.append(measuring.in_a_process(
                "growth", "--measure", kind, Path(folder) / "photos", count))
            terminal.say(rows[-1])
    *loaded, alone = rows
    text = [
        f"From {words}; each of a thousand photos takes",
        measuring.table(
            ["photos", "ms to decode and load", "ms to load again", "ms to stream to training",
             "MB of memory in all", "beside the framework's own MB"],
            [[row["photos"], row["first"] / row["photos"] * 1e6,
              row["again"] / row["photos"] * 1e6, row["stream"] / row["streamed"] * 1e6,
              row["memory"], row["frameworks_own"]] for row in loaded]),
        measuring.table(
            ["photos", "the index for the first time", "again", "again, per 100,000 photos",
             "MB of memory"],
            [[alone["photos"], f"{alone['first']:.1f} s", f"{alone['again']:.2f} s",
              f"{alone['again'] / alone['photos'] * 1e5:.2f} s", alone["memory"]]]),
    ]

    def draw(axis):
        for key, label in (("first", "decode and load"), ("again", "load again"),
                           ("stream", "stream to training")):
            photos = [row["streamed" if key == "stream" else "photos"] for row in loaded]
            values = [row[key] / count * 1e6 for row, count in zip(loaded, photos, strict=True)]
            axis.plot(counts, values, "o-", label=label)
        axis.legend(frameon=False, loc="center right")

    save = measuring.plot("Growth", "photos", "ms a thousand photos", draw, logarithmic="xy")
    result = {"photos": words, "loaded": loaded, "index": alone}
    measuring.write("growth", args, text, result, save)
    return 0


if __name__ == "__main__":
    terminal.run(main)
