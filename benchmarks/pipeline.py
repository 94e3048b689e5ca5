"""Measure the input pipeline alone: the first pass over the photos, and every later one.

The first pass decodes, shrinks and writes the cache; its limit is decoding alone, on all cores. A
later pass reads, crops and augments; it must be faster than training. The comparison is
`image_dataset_from_directory` with the augmentation of the Keras example, which decodes in every
pass.
"""

import concurrent.futures
import dataclasses
import functools
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

import data
from benchmarks import measuring, step
from catdog import cli
from catdog.photos import cache, index
from catdog.training.recipe import RECIPES
from catdog.training.settings import Settings

USED = ("fast", "full")  # recipes
PASS_SECONDS = 1  # of a measurement of a later pass


def decode(path: Path) -> None:
    """Decode a photo with Pillow, and nothing else."""
    np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


def decode_all(paths: list[Path]) -> None:
    """Decode photos on all cores: Pillow releases Python's lock."""
    chunks = [paths[i : i + 64] for i in range(0, len(paths), 64)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda chunk: [decode(path) for path in chunk], chunks))


def first_pass(found: index.Found, size: int) -> None:
    """Decode, shrink and write the cache into a new folder, as `data.load` does."""
    with tempfile.TemporaryDirectory() as folder:
        cache.images(found, size, Path(folder))


def first_passes(found: index.Found, seconds: float, turns: int) -> dict[str, list[float]]:
    """Return the photos/s of decoding alone, and of the passes that fill a cache."""
    paths = [found.root / path for path in found.paths]

    def rate(function: Callable, *arguments) -> Callable[[], float]:
        return lambda: len(paths) / measuring.timed(lambda: function(*arguments))[0]

    sizes = [RECIPES[name].score_size for name in USED]
    passes = {f"first pass, {size} px": rate(first_pass, found, size) for size in sizes}
    ways = {"Pillow, decoding alone": rate(decode_all, paths), **passes}
    return measuring.in_turns(ways, seconds, turns)


def photos_per_second(batches: Iterable[tuple]) -> float:
    """Return the rate of an iterable of (inputs, targets) after its first batch."""
    batches = iter(batches)
    next(batches)
    started = time.perf_counter()
    photos = 0
    for _, targets in batches:
        photos += len(targets)
        if time.perf_counter() - started > PASS_SECONDS:
            break
    return photos / (time.perf_counter() - started)


def later_pass(dataset: data.Dataset, recipe: Settings, size: int) -> float:
    """Return the photos/s of the stream that training reads, at one of its image sizes."""
    settings = dataclasses.replace(recipe, epochs=1, image_size=size, stages=(1,))
    return photos_per_second(data.training_batches(dataset, settings, 0))


def peer_pass(folder: Path, augmented: bool) -> float:
    """Return the photos/s of the Keras example's stream."""
    from benchmarks import peers  # which loads Keras

    _, size, batch_size, augmentation = peers.PEERS["keras"]
    batches = peers.photos_of(folder, size, batch_size, augmentation if augmented else None)
    return photos_per_second(batches.repeat())


def later_passes(found: index.Found, seconds: float, turns: int) -> dict[str, list[float]]:
    """Return the photos/s of the Keras example's stream, and of ours at every image size."""
    name = "image_dataset_from_directory, 180 px"
    ways = {f"{name}, augmented": functools.partial(peer_pass, found.root, True)}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in (RECIPES[name] for name in USED):
            dataset = data.load(str(found.root), recipe.score_size, folder)
            dataset = measuring.repeated(dataset, 50_000)  # more than a pass has time for
            for size in dict.fromkeys(recipe.image_sizes()):
                way = functools.partial(later_pass, dataset, recipe, size)
                ways[f"later pass of {recipe.recipe}, {size} px"] = way
        ways[f"{name}, not augmented"] = functools.partial(peer_pass, found.root, False)
        return measuring.in_turns(ways, seconds, turns)


def training_rates(seconds: float, turns: int) -> dict[int, float]:
    """Return the photos/s of training steps without any pipeline, by image size in pixels."""
    sizes = sorted({size for name in USED for size in RECIPES[name].image_sizes()})
    ways = {size: step.seconds_of(functools.partial(step.make_step, size)) for size in sizes}
    times = measuring.in_turns(ways, seconds, turns)
    return {size: step.BATCH / statistics.median(values) for size, values in times.items()}


def paragraphs(photos: str, first: dict, later: dict, training: dict) -> list[str]:
    """Return the figures as tables."""
    limit, *_ = first.values()
    peer, *_ = later.values()
    rows = []
    for name, values in later.items():
        rate, times = statistics.median(values), f"{measuring.ratio(values, peer):.1f}"
        trained = training.get(int(name.split()[-2])) if name.startswith("later") else None
        rows.append([name, rate, times, f"{rate / trained:.1f}" if trained else ""])
    return [
        photos,
        measuring.table(
            ["first pass", "photos/s", "compared with decoding alone"],
            [
                [name, statistics.median(values), f"{measuring.ratio(values, limit):.0%}"]
                for name, values in first.items()
            ],
        ),
        measuring.table(
            ["later passes", "photos/s", "times the Keras example", "times training alone"], rows
        ),
    ]


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "pipeline", seconds=300)
    args = parser.parse_args(argv)
    budget = measuring.Budget(args)
    photos = 600 if args.quick else 3000
    _, found, words = measuring.find_photos(args.data_dir)
    words = f"{photos:,} files, copied from {words}"
    with tempfile.TemporaryDirectory() as folder:
        measuring.copies(found, photos, Path(folder))
        found = index.find(folder)
        first = first_passes(found, budget.seconds / 4, budget.turns)
        later = later_passes(found, budget.left() / 2, budget.turns)
    training = training_rates(0.8 * budget.left(), budget.turns)

    result = {"photos": words, "first": first, "later": later, "training": training}
    medians = measuring.medians({**first, **later})
    save = measuring.bars("Input pipeline", "photos/s", medians)
    measuring.write("pipeline", args, paragraphs(words, first, later, training), result, save)
    return 0


if __name__ == "__main__":
    cli.run(main)
