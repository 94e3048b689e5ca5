"""Measure training on a GPU, backend by backend, in at most eight minutes.

    python -m benchmarks.gpu

For each installed backend of Keras and each image size of the recipe `full`: how long the first
step takes, which is compiled, how long the others take, and how long the device waited for photos.
That is what `fit` takes longer with photos from the host than with one batch that is already on the
device. The matrix product is one of 8192 x 8192 in bfloat16. The photos are random.
"""

import argparse
import dataclasses
import functools
import importlib.util
import time
import types

import numpy as np

import data
import model
import train
from benchmarks import measuring, step
from catdog import cli
from catdog.backend import keras
from catdog.files import to_json
from catdog.training import devices, optimizer
from catdog.training.recipe import RECIPES

BACKENDS = ("jax", "torch", "tensorflow")
STEPS, PHOTOS, SIDE = 60, 4096, 8192
EPOCH = 140  # steps of an epoch of Dogs vs. Cats, with batches of 128


def random_dataset(photos: int, members: int) -> types.SimpleNamespace:
    """Return what `data.training_batches` needs of a dataset: random photos of two classes.

    Args:
        photos: how many there are.
        members: how many an epoch has, some of them several times.
    """
    rng = np.random.default_rng(0)
    return types.SimpleNamespace(
        images=rng.integers(0, 256, (photos, 200, 200, 3), np.uint8),
        labels=rng.integers(0, 2, photos),
        classes=["cat", "dog"],
        splits={"train": np.resize(np.arange(photos), members)},
    )


def measure(size: int, steps: int, batch_size: int, seconds: float) -> dict:
    """Return the seconds of the first step and of the others, and the share that is waiting.

    Args:
        seconds: no turn begins after them.
    """
    started, precision = time.perf_counter(), optimizer.best_precision(devices.devices()[0])
    settings = dataclasses.replace(
        RECIPES["full"], image_size=size, stages=(1.0,), batch_size=batch_size, precision=precision
    )
    photos = steps * batch_size
    batches = data.training_batches(random_dataset(min(PHOTOS, photos), photos), settings, 0)
    ready = keras.tree.map_structure(keras.ops.convert_to_tensor, batches[0])
    network = train.build(settings, ["cat", "dog"], steps=EPOCH, fresh=True)

    class Ready(keras.utils.PyDataset):
        def __len__(self):
            return steps

        def __getitem__(self, step):
            return ready

    ways = {"photos": batches, "ready": Ready()}

    def fit(stream, steps=None):
        network.fit(stream, verbose=0, shuffle=False, steps_per_epoch=steps)

    first, _ = measuring.timed(lambda: fit(Ready(), 1))
    times = {name: [] for name in ways}
    while not times["ready"] or (
        len(times["ready"]) < 3 and time.perf_counter() - started < seconds
    ):
        for name, stream in ways.items():
            times[name].append(measuring.timed(functools.partial(fit, stream))[0] / steps)
    best = {name: min(values) for name, values in times.items()}
    return {
        "device": devices.devices()[0],
        "precision": precision,
        "first": first,
        "step": best["photos"],
        "waiting": max(0, 1 - best["ready"] / best["photos"]),
        "operations": step.step_operations(model.build("plain", 2, size), batch_size),
    }


def product_rate(side: int) -> float:
    """Return the operations per second of a large matrix product in bfloat16."""
    a = keras.ops.cast(keras.random.uniform((side, side)), "bfloat16")
    multiply = keras.ops.matmul

    def run(times=10):
        b = a
        for _ in range(times):
            b = multiply(a, b)
        return float(keras.ops.cast(b[0, 0], "float32"))  # waits for the device

    run()
    return 10 * 2 * side**3 / min(measuring.timed(run)[0] for _ in range(3))


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "gpu", seconds=400)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    steps, side, batch, sizes = STEPS, SIDE, 128, (64, 96, 128, 160)
    if args.quick:
        steps, side, batch, sizes = 2, 256, 8, (48,)
    budget = measuring.Budget(args)
    if args.size:
        found = measure(args.size, steps, batch, budget.seconds)
        print(to_json(found | {"peak": product_rate(side)}))
        return 0

    rows, results = [], []
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    for name in installed:
        for size in sizes:
            if not budget.left():
                cli.say(f"no time is left for {name} at {size} px")
                continue
            seconds = max(1, int(budget.left() / len(installed) / len(sizes)))
            arguments = ["--size", size, "--seconds", seconds, *["--quick"] * args.quick]
            found = measuring.in_a_process("gpu", *arguments, KERAS_BACKEND=name)
            results.append({"backend": name, "image_size": size, **found})
            rate = found["operations"] / found["step"]
            rows.append(
                [
                    f"{name}, {found['device']}, {found['precision']}",
                    size,
                    f"{found['first']:.1f}",
                    f"{1e3 * found['step']:.1f}",
                    f"{EPOCH * found['step']:.1f}",
                    f"{rate / found['peak']:.0%} of {found['peak'] / 1e12:,.0f} TFLOP/s",
                    f"{found['waiting']:.0%}",
                ]
            )
    head = ["backend", "px", "first step, s", "ms per step", "s per epoch", "share of a product"]
    table = measuring.table([*head, "waited for photos"], rows)
    rates = {f"{row['backend']}, {row['image_size']} px": 1e3 * row["step"] for row in results}
    save = measuring.bars("Training step", "ms", rates)
    measuring.write("gpu", args, [table], {"rows": results}, save)
    return 0


if __name__ == "__main__":
    cli.run(main)
