"""Measures the input pipeline alone: the first pass over the photos, and every later one.

The first pass decodes, shrinks and writes the cache; its limit is decoding alone, on all cores. A
later pass reads, crops and augments; it must be faster than training. Beside it,
`image_dataset_from_directory` with the augmentation of the Keras example, which decodes in
every pass.
"""

import concurrent.futures
import dataclasses
import functools
import io
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import measuring
from catdog import cli as terminal
from catdog.photos import index as layouts

USED = ("fast", "full")  # recipes


# --- The limit ------------------------------------------------------------------------------------


def on_all_cores(function, items):
    """Calls the function for every item in threads, as the cache does: Pillow frees the lock."""
    def some(start):
        for item in items[start : start + 64]:
            function(item)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(some, range(0, len(items), 64)))


def pillow(path):
    """Decodes a photo, and nothing else."""
    np.asarray(Image.open(io.BytesIO(Path(path).read_bytes())).convert("RGB"))


def pillow_small(path, size):
    """The least that Pillow has to do for a square photo: decode just large enough, shrink."""
    image = Image.open(io.BytesIO(Path(path).read_bytes()))
    image.draft("RGB", (size, size))
    np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def tensorflow(paths):
    """Decodes photos with TensorFlow, and nothing else; PNG and other formats too."""
    import tensorflow as tf

    def decode(path):
        return tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)

    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.map(decode, num_parallel_calls=os.cpu_count())
    for _ in dataset:
        pass


# --- Passes ---------------------------------------------------------------------------------------


def first_pass(found, size):
    """Decodes, shrinks and writes the cache into a new folder, as `data.load` does."""
    from catdog.photos import cache

    with tempfile.TemporaryDirectory() as folder:
        cache.images(found, size, Path(folder))


def rate(batches, seconds):
    """Photos a second of an iterable of (images, targets) after its first batch."""
    batches = iter(batches)
    next(batches)
    started = time.perf_counter()
    photos = 0
    for images, _ in batches:
        photos += len(images)
        if time.perf_counter() - started > seconds:
            break
    return photos / (time.perf_counter() - started)


def later_pass(dataset, recipe, size, seconds):
    """Photos a second of the stream that training reads, at one of its sizes."""
    import data

    settings = dataclasses.replace(recipe, epochs=1000, image_size=size, stages=(1,))
    settings = dataclasses.replace(settings, batch_size=min(128, len(dataset.splits["train"])))
    return rate(data.training_batches(dataset, settings), seconds)


def crops_alone(recipe, size, seconds):
    """Photos a second of nothing but the random crops of a later pass, which limit it."""
    import tensorflow as tf

    images = tf.random.uniform((128, recipe.score_size, recipe.score_size, 3), maxval=255)
    boxes = tf.constant([[0.1, 0.1, 0.9, 0.9]] * 128)
    crop = tf.function(lambda: tf.image.crop_and_resize(images, boxes, range(128), [size, size]))
    return rate(((crop(), None) for _ in itertools.count()), seconds)


def peer_pass(folder, augmented, seconds):
    """Photos a second of the Keras example's stream."""
    from benchmarks import peers

    _, size, batch_size, augmentation = peers.PEERS["keras"]
    batches = peers.photos_of(folder, size, batch_size, augmentation if augmented else None)
    return rate(itertools.chain.from_iterable(itertools.repeat(batches)), seconds)


def training_rate(size, steps):
    """Photos a second of training steps without any pipeline."""
    from benchmarks import step

    return step.BATCH / step.with_threads(size, steps)


def first_passes(found, recipes, turns):
    """{name: [photos a second]} of decoding alone, and of the passes that fill a cache."""
    paths = [str(found.root / path) for path in found.paths]
    for path in paths:
        Path(path).read_bytes()  # from here on, the files are in the system's memory

    def per_second(function, *arguments):
        return lambda: len(paths) / measuring.timed(lambda: function(*arguments))[0]

    sizes = [recipe.score_size for recipe in recipes]
    return measuring.in_turns({
        "Pillow, decoding alone": per_second(on_all_cores, pillow, paths),
        "tf.io, decoding alone": per_second(tensorflow, paths),
        **{f"Pillow, decoding and shrinking to {size} px": per_second(
            on_all_cores, functools.partial(pillow_small, size=size), paths) for size in sizes},
        **{f"first pass, {size} px": per_second(first_pass, found, size) for size in sizes},
    }, turns)


def later_passes(found, recipes, turns, seconds):
    """{name: [photos a second]} of the Keras example's stream and of ours, at every size."""
    import data

    ways = {
        "image_dataset_from_directory, 180 px, augmented": functools.partial(
            peer_pass, found.root, True, seconds),
        "image_dataset_from_directory, 180 px, as they are": functools.partial(
            peer_pass, found.root, False, seconds),
    }
    with tempfile.TemporaryDirectory() as cache:
        for recipe in recipes:
            dataset = data.load(found.root, recipe.score_size, Path(cache))
            for size in dict.fromkeys(recipe.image_sizes()):
                ways[f"later pass of {recipe.recipe}, {size} px"] = functools.partial(
                    later_pass, dataset, recipe, size, seconds)
            ways[f"crops alone, {recipe.image_size} px"] = functools.partial(
                crops_alone, recipe, recipe.image_size, seconds)
        return measuring.in_turns(ways, turns)


def paragraphs(photos, first, later, training):
    """The figures in words and tables."""
    limit, *_ = first.values()
    peer, *_ = later.values()
    first_rows = [[name, statistics.median(values), f"{measuring.ratio(values, limit):.0%}"]
                  for name, values in first.items()]
    later_rows = []
    for name, values in later.items():
        median, times = statistics.median(values), f"{measuring.ratio(values, peer):.1f}"
        trained = training.get(int(name.split()[-2])) if name.startswith("later") else None
        later_rows.append([name, median, times, trained,
                           f"{median / trained:.1f}" if trained else ""])
    return [
        photos,
        measuring.table(["first pass", "photos/s", "share of Pillow's decoding alone"], first_rows),
        measuring.table(["later passes", "photos/s", "times the Keras example's",
                         "training alone, photos/s", "times as fast as training"], later_rows),
    ]


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "pipeline")
    args = parser.parse_args(argv)
    photos, turns, seconds, steps = (600, 1, 1, 2) if args.quick else (3000, 5, 1, 6)

    from catdog.training.recipe import RECIPES

    recipes = [RECIPES[name] for name in USED]
    _, found, words = measuring.find_photos(args.data_dir)
    words = f"{photos:,} files, copied from {words}, {turns} turns"
    with tempfile.TemporaryDirectory() as folder:
        measuring.copies(found, photos, Path(folder))
        found = layouts.find(folder)
        first = first_passes(found, recipes, turns)
        later = later_passes(found, recipes, turns, seconds)
    sizes = sorted({size for recipe in recipes for size in recipe.image_sizes()})
    training = {size: training_rate(size, steps) for size in sizes}

    result = {"photos": words, "first": first, "later": later, "training": training}
    medians = measuring.medians({**first, **later})
    save = measuring.plot("Input pipeline", "photos a second", "",
                          lambda axis: measuring.bars(axis, medians), logarithmic="x")
    measuring.write("pipeline", args, paragraphs(words, first, later, training), result, save)
    return 0


if __name__ == "__main__":
    terminal.run(main)
