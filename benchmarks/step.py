"""Measure a training step of the default network beside a large matrix product.

Both are computed in the precision that train.py chooses for this machine. Operations are counted
from the shapes of convolutions and fully connected layers: a multiplication and an addition are
two. A step takes three times those of the forward pass (the gradients of weights and of
activations), and twice for the first layer, as photos need no gradient. The iterations of Muon are
not counted. The share of the matrix product is the median of the shares within each turn.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import re
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

import model
import train
from benchmarks import measuring
from catdog import cli
from catdog.backend import keras, tf
from catdog.files import to_json
from catdog.training import devices, normalization, optimizer
from catdog.training.recipe import RECIPES

BATCH = 128  # photos
SIDE = 4096  # of the matrices
SIZES = ((48, 128), (64, 128), (80, 128), (96, 128), (128, 128), (160, 128), (64, 32), (64, 256))

PARTS = {  # what an operation belongs to, by its name or type; the first that matches
    "Muon and AdamW": r"muon|newton",
    "batch normalization": r"batch_?norm",
    "convolution": r"conv",
    "pooling": r"pool",
    "ReLU": r"re_lu|relu",
}


# --- Counting -------------------------------------------------------------------------------------


def multiplications(network: keras.Model) -> list[int]:
    """Return those of one photo's forward pass, per layer; the network has a fixed image size."""
    counts = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            counts.append(height * width * int(np.prod(layer.kernel.shape)))
        elif isinstance(layer, keras.layers.Dense):
            counts.append(int(np.prod(layer.kernel.shape)))
    return counts


def step_operations(network: keras.Model, batch: int) -> int:
    """Return the operations of one training step without the optimizer."""
    first, *others = multiplications(network)
    return 2 * batch * (2 * first + 3 * sum(others))


# --- Measuring ------------------------------------------------------------------------------------


@functools.cache
def precision() -> str:
    """Return the dtype policy that train.py chooses on this machine."""
    return optimizer.best_precision(devices.devices()[0])


def dtype_of(policy: str) -> str:
    return policy.removeprefix("mixed_")


def seconds_of(make: Callable[[], Callable]) -> Callable[[], float]:
    """Return a function that measures the seconds of a call of what `make` returns.

    It is made at the first call, so that nothing is compiled that there is no time to measure.
    """
    made = functools.cache(make)
    return lambda: measuring.timed(made())[0]


def make_product(dtype: str) -> Callable[[], float]:
    """Return a function that multiplies two large matrices."""
    a, b = (keras.ops.cast(keras.random.uniform((SIDE, SIDE)), dtype) for _ in range(2))
    return lambda: float(keras.ops.matmul(a, b)[0, 0])


def make_step(
    size: int,
    batch: int = BATCH,
    policy: str | None = None,
    xla: bool = False,
    adamw: bool = False,
    fused: bool = True,
) -> Callable[[], object]:
    """Return a function that takes one training step on random photos, with their augmentation.

    Args:
        size: height and width of the images in pixels.
        batch: number of images.
        policy: dtype policy; by default that of train.py.
        xla: compile the step with XLA.
        adamw: use AdamW instead of Muon.
        fused: normalize batches as train.py does, not as Keras does.
    """
    settings = dataclasses.replace(
        RECIPES["full"], image_size=size, batch_size=batch, precision=policy or precision()
    )
    kept = mock.patch.object(normalization, "fuse", lambda network: network)
    with contextlib.nullcontext() if fused else kept:
        network = train.build(settings, ["cat", "dog"], steps=1000, fresh=True)
    if adamw:
        network.compile(keras.optimizers.AdamW(), network.loss)
    if xla:
        network.jit_compile = True
    inputs, targets = measuring.random_batch(size, batch, settings)
    return lambda: network.train_on_batch(inputs, targets)


def variants(size: int) -> dict[str, Callable[[], float]]:
    """Return steps that differ in one thing from those of train.py."""
    other = "float32" if precision() != "float32" else "mixed_bfloat16"
    ways = {
        "AdamW instead of Muon": {"adamw": True},
        "Keras's batch normalization": {"fused": False},
        dtype_of(other): {"policy": other},
        "XLA": {"xla": True},
    }
    return {
        name: seconds_of(functools.partial(make_step, size, **options))
        for name, options in ways.items()
    }


def profile(size: int, steps: int = 3) -> dict[str, float]:
    """Return the share of each part of a training step in the time of all its operations."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    step = make_step(size)
    step()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            step()
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    parts = dict.fromkeys([*PARTS, "everything else"], 0)
    for plane in space.planes:
        for event in itertools.chain.from_iterable(line.events for line in plane.lines):
            name = plane.event_metadata[event.metadata_id].name
            if re.fullmatch(r"[^:# ]+:_?[A-Z]\w+", name):  # name:Type, an operation
                matching = (p for p, regex in PARTS.items() if re.search(regex, name, re.I))
                parts[next(matching, "everything else")] += event.duration_ps
    return {part: duration / sum(parts.values()) for part, duration in parts.items()}


# --- The program ----------------------------------------------------------------------------------


def measure(budget: measuring.Budget, variant_size: int, sizes: tuple) -> dict:
    """Return all figures; what no time is left for is missing.

    Args:
        variant_size: image size in pixels of the variants.
        sizes: (image size in pixels, batch size) of the steps as they are in train.py.
    """
    product, default = "matrix product", f"{variant_size} px, batch {BATCH}"
    steps = {
        f"{size} px, batch {batch}": seconds_of(functools.partial(make_step, size, batch))
        for size, batch in sizes
    }
    tried = variants(variant_size)
    peak = seconds_of(functools.partial(make_product, dtype_of(precision())))
    ways = {product: peak, default: steps[default], **steps, **tried}
    times = measuring.in_turns(ways, 0.7 * budget.seconds, budget.turns)
    rows = []
    for (size, batch), name in zip(sizes, steps, strict=True):
        if name in times:
            operations = step_operations(model.build("plain", 2, size), batch)
            share = operations / (2 * SIDE**3) * measuring.ratio(times[product], times[name])
            row = {"image_size": size, "batch_size": batch, "operations": operations}
            row |= {"seconds": statistics.median(times[name]), "share_of_peak": share}
            rows.append(row)
    ratios = {n: measuring.ratio(times[n], times[default]) for n in tried if n in times}
    if budget.left():
        one_core = {"TF_NUM_INTEROP_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
        alone = measuring.in_a_process("step", "--alone", variant_size, **one_core)["seconds"]
        ratios["one core"] = alone / statistics.median(times[default])
    profiled = budget.left() and keras.backend.backend() == "tensorflow"
    return {
        "precision": dtype_of(precision()),
        "peak_gflops": 2 * SIDE**3 / statistics.median(times[product]) / 1e9,
        "steps": rows,
        "variant_size": variant_size,
        "variants": ratios,
        "profile": profile(variant_size) if profiled else {},
        "times": times,
    }


def paragraphs(result: dict) -> list[str]:
    """Return the figures as sentences and tables."""
    name, size = result["precision"], result["variant_size"]
    steps = [
        [
            row["image_size"],
            row["batch_size"],
            row["seconds"] * 1e3,
            row["batch_size"] / row["seconds"],
            row["operations"] / row["seconds"] / 1e9,
            f"{row['share_of_peak']:.0%}",
        ]
        for row in result["steps"]
    ]
    head = ["pixels", "batch", "ms per step", "photos/s", "GFLOP/s", "share of the matrix product"]
    tables = [
        f"A {SIDE}x{SIDE} matrix product in {name}, the precision of train.py on this machine: "
        f"{result['peak_gflops']:,.0f} GFLOP/s.",
        measuring.table(head, steps),
        measuring.table(
            [f"at {size} pixels, batch {BATCH}", f"time compared with the default, in {name}"],
            [[each, f"{ratio:.2f}"] for each, ratio in result["variants"].items()],
        ),
    ]
    if result["profile"]:
        head = [f"part of a step at {size} pixels", "share of the time, by TensorFlow's profiler"]
        rows = [[part, f"{share:.0%}"] for part, share in result["profile"].items()]
        tables.append(measuring.table(head, rows))
    return tables


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "step", seconds=600)
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.alone:
        way = seconds_of(functools.partial(make_step, args.alone))
        (times,) = measuring.in_turns({"one core": way}, 20, 5).values()
        print(to_json({"seconds": statistics.median(times)}))
        return 0

    budget = measuring.Budget(args)
    tf.get_logger().setLevel("ERROR")  # it warns of several networks in one process
    size, sizes = (48, SIZES[:1]) if args.quick else (64, SIZES)
    result = measure(budget, size, sizes)
    rates = {
        f"{row['image_size']} px, batch {row['batch_size']}": row["operations"]
        / row["seconds"]
        / 1e9
        for row in result["steps"]
    }
    title = f"Training step in {result['precision']} (dashed: a matrix product)"
    save = measuring.bars(title, "GFLOP/s", rates, result["peak_gflops"])
    measuring.write("step", args, paragraphs(result), result, save)
    return 0


if __name__ == "__main__":
    cli.run(main)
