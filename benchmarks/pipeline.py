"""Measures the input pipeline alone: the first pass over the photos, and every later one.

The first pass decodes, shrinks and writes the cache; its limit is decoding alone, on all cores. A
later pass reads, crops and augments; it must be faster than training. Beside it,
`image_dataset_from_directory` with the augmentation of the Keras example, which decodes in
every pass.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import terminal
from benchmarks import measuring

SIZES = {"fast": (48, 64, 80), "full": (64, 96, 128)}  # px in training, by recipe


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
    import cache

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
    """Photos a second of the stream that training reads."""
    import data
    from recipe import RECIPES

    settings = dataclasses.replace(RECIPES[recipe], epochs=1000, image_size=size)
    settings = dataclasses.replace(settings, batch_size=min(128, len(dataset.splits["train"])))
    # At its last size, which is `image_size`: the epochs before it are skipped.
    return rate(data.training_batches(dataset, settings, start_epoch=700), seconds)


def peer_pass(folder, augmented, seconds):
    """Photos a second of the Keras example's stream."""
    from benchmarks import peers

    _, size, batch_size, augmentation = peers.PEERS["keras"]
    batches = peers.photos_of(folder, size, batch_size, augmentation if augmented else None)
    return rate(itertools.chain.from_iterable(itertools.repeat(batches)), seconds)


def training_rate(size, steps):
    """Photos a second of training steps without any pipeline."""
    from benchmarks import step

    name = f"step at {size} px"
    seconds = step.median_seconds({name: step.make_step(size)[0]}, steps)[name]
    return step.BATCH / seconds


# --- The program ----------------------------------------------------------------------------------


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "pipeline")
    args = parser.parse_args(argv)
    photos, turns, seconds, steps = (600, 1, 1, 2) if args.quick else (3000, 3, 2, 6)

    import data
    from recipe import RECIPES

    _, found, words = measuring.find_photos(args.data_dir)
    numbers = measuring.take(found, photos)
    some = dataclasses.replace(
        found, paths=[found.paths[i] for i in numbers], labels=found.labels[numbers],
        names=[found.names[i] for i in numbers])
    paths = [str(some.root / path) for path in some.paths]
    for path in paths:
        Path(path).read_bytes()  # from here on, the files are in the system's memory

    def per_second(function):
        return lambda: len(paths) / measuring.timed(function)[0]

    decoded = {recipe: RECIPES[recipe].score_size for recipe in SIZES}
    first = measuring.in_turns({
        "Pillow, decoding alone": per_second(lambda: on_all_cores(pillow, paths)),
        "tf.io, decoding alone": per_second(lambda: tensorflow(paths)),
        **{f"Pillow, decoding and shrinking to {size} px": per_second(
            lambda size=size: on_all_cores(lambda path: pillow_small(path, size), paths))
           for size in decoded.values()},
        **{f"first pass, {size} px": per_second(lambda size=size: first_pass(some, size))
           for size in decoded.values()},
    }, turns)

    with tempfile.TemporaryDirectory() as temporary:
        folder = measuring.link(some.root, some.paths, some.classes, some.labels,
                                Path(temporary) / "photos")
        datasets = {recipe: data.load(folder, size, Path(temporary) / "cache")
                    for recipe, size in decoded.items()}
        later = measuring.in_turns({
            "image_dataset_from_directory, 180 px, augmented": lambda: peer_pass(
                folder, True, seconds),
            "image_dataset_from_directory, 180 px, as they are": lambda: peer_pass(
                folder, False, seconds),
            **{f"later pass of {recipe}, {size} px": (
                lambda recipe=recipe, size=size: later_pass(
                    datasets[recipe], recipe, size, seconds))
               for recipe, sizes in SIZES.items() for size in sizes},
        }, turns)
    used = sorted({size for sizes in SIZES.values() for size in sizes})
    training = {size: training_rate(size, steps) for size in used}

    limit, *_ = first.values()
    peer, *_ = later.values()

    def middle(values):
        return measuring.spread(values)["median"]

    rows = [[name, middle(values), f"{measuring.ratio(values, limit):.0%}"]
            for name, values in first.items()]
    later_rows = []
    for name, values in later.items():
        size = int(name.split()[-2]) if name.startswith("later") else None
        trained = training.get(size)
        later_rows.append([name, middle(values), f"{measuring.ratio(values, peer):.1f}", trained,
                           f"{middle(values) / trained:.1f}" if trained else ""])
    text = "\n".join([
        f"{len(paths):,} of {words}, {turns} turns",
        "",
        measuring.table(["first pass", "photos/s", "share of Pillow's decoding alone"], rows),
        "",
        measuring.table(["later passes", "photos/s", "times the Keras example's",
                         "training alone, photos/s", "times as fast as training"], later_rows),
    ])
    result = {"photos": words, "used": len(paths), "first": first, "later": later,
              "training": training}
    medians = {name: middle(values) for name, values in {**first, **later}.items()}
    save = measuring.plot("Input pipeline", "photos a second", "",
                          lambda axis: measuring.bars(axis, medians), logarithmic="x")
    measuring.write("pipeline", text, result, save, args.docs)
    return 0


if __name__ == "__main__":
    terminal.run_program(main)
