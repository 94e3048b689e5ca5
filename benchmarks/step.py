"""Measures a training step of the default network against the fastest matrix product.

Operations are counted from the shapes of the layers, convolutions and fully connected ones alone:
a multiplication and an addition are two, and a step takes three times those of the forward pass
(the gradients of weights and of activations), but for the first layer twice: photos need no
gradient. Those of Muon's iteration are counted apart. The peak is a large matrix product through
TensorFlow, which takes turns with the steps: shares of it are medians of those within a turn.
"""

import argparse
import contextlib
import dataclasses
import itertools
import re
import statistics
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import measuring
from catdog import cli as terminal
from catdog.cli import say
from catdog.scores import metrics as report

BATCH = 128
SIDE = 4096  # of the matrices
SIZES = ((48, 128), (64, 128), (80, 128), (96, 128), (128, 128), (160, 128), (64, 32), (64, 256))
AS_IT_IS = "bfloat16 (as it is)"

PARTS = {  # what an operation belongs to, by its name or type; the first that fits
    "Muon and AdamW": r"muon|newton",
    "batch normalization": r"batch_?norm",
    "convolution": r"conv",
    "pooling": r"pool",
    "ReLU": r"re_lu|relu",
}


# --- Counting -------------------------------------------------------------------------------------


def multiplications(network):
    """Of one photo's forward pass, layer by layer; the network must have a fixed image size."""
    import keras

    counts = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, filters = layer.output.shape
            kernel = layer.kernel.shape
            counts.append(height * width * filters * kernel[0] * kernel[1] * kernel[2])
        elif isinstance(layer, keras.layers.Dense):
            counts.append(layer.kernel.shape[0] * layer.kernel.shape[1])
    return counts


def step_operations(network, batch):
    """Of one training step without the optimizer."""
    first, *others = multiplications(network)
    return 2 * batch * (2 * first + 3 * sum(others))


def muon_operations(network, iterations):
    """Of `training.ConvolutionMuon`: two large products, and small ones of filters by filters."""
    kernels = [weight.shape for weight in network.trainable_weights if len(weight.shape) == 4]
    return sum(4 * np.prod(shape) * shape[3] + (8 * iterations - 4) * shape[3] ** 3
               for shape in kernels)


# --- Measuring ------------------------------------------------------------------------------------


def make_product(dtype):
    """A function that multiplies two large matrices in `dtype`."""
    import tensorflow as tf

    a, b = (tf.cast(tf.random.uniform((SIDE, SIDE)), dtype) for _ in range(2))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, b)[0, :1]))
    return lambda: product().numpy()


def make_step(size, batch=BATCH, precision="mixed_bfloat16", jit=False, optimizer=None,
              norm="fused"):
    """(a function that takes one training step, the network) on random images.

    optimizer: another than the project's. norm: `fused`, as in training, `Keras's` or `none`.
    """
    import keras

    from catdog.training import normalization
    from catdog.training import optimizer as training
    from catdog.training.recipe import RECIPES

    settings = dataclasses.replace(
        RECIPES["full"], image_size=size, batch_size=batch, precision=precision)
    without = mock.patch("keras.layers.BatchNormalization",
                         lambda **options: keras.layers.Activation("linear"))
    keras.config.set_dtype_policy(precision)
    try:
        with without if norm == "none" else contextlib.nullcontext():
            network = training.networks.build("plain", 2, size, settings.dropout)
        if norm == "fused":
            network = normalization.fuse(network)
    finally:
        keras.config.set_dtype_policy("float32")
    training.compile_network(network, settings, 2, 1000)
    if optimizer:
        network.compile(optimizer(), network.loss)
    network.jit_compile = jit
    rng = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(rng.uniform(0, 255, (batch, size, size, 3)), "float32")
    targets = keras.ops.convert_to_tensor(rng.integers(0, 2, (batch, 1)), "float32")
    return lambda: network.train_on_batch(images, targets), network


def seconds_in_turns(ways, turns):
    """{name: [seconds]} of functions that take turns, after one call of each."""
    for name, way in ways.items():
        say(f"compiling {name}")
        way()
    times = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            times[name].append(measuring.timed(way)[0])
    return times


def variants(size):
    """{name: step} of what might be quicker, and of steps without a part."""
    import keras

    return {
        AS_IT_IS: make_step(size)[0],
        "float32": make_step(size, precision="float32")[0],
        "bfloat16, XLA": make_step(size, jit=True)[0],
        "Keras's own batch normalization": make_step(size, norm="Keras's")[0],
        "AdamW instead of Muon": make_step(size, optimizer=keras.optimizers.AdamW)[0],
        "SGD instead of Muon": make_step(size, optimizer=keras.optimizers.SGD)[0],
        "SGD, and no batch normalization": make_step(
            size, optimizer=keras.optimizers.SGD, norm="none")[0],
    }


def with_threads(size, turns, **threads):
    """The median seconds of a step in a process with so many threads."""
    return measuring.in_a_process("step", "--alone", size, turns, **threads)["seconds"]


def profile(size, steps=3):
    """Share of every part of a training step in the time of its operations, by TensorFlow."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    step, _ = make_step(size)
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
                part = next((part for part, pattern in PARTS.items()
                             if re.search(pattern, name, re.IGNORECASE)), "everything else")
                parts[part] += event.duration_ps
    total = sum(parts.values())
    return {part: picoseconds / total for part, picoseconds in parts.items()}


# --- The program ----------------------------------------------------------------------------------


def measure(size, turns, quick):
    """All figures: a dict."""
    products = {f"matrix product in {dtype}": make_product(dtype)
                for dtype in ("float32", "bfloat16")}
    rows, steps = [], {}
    for pixels, batch in SIZES[:1] if quick else SIZES:
        name = f"{pixels} px, batch {batch}"
        steps[name], network = make_step(pixels, batch)
        rows.append({"name": name, "image_size": pixels, "batch_size": batch,
                     "operations": step_operations(network, batch),
                     "muon_operations": muon_operations(network, 3)})
    tried = variants(size)
    times = seconds_in_turns({**products, **steps, **tried}, turns)
    _, peak = (times[name] for name in products)
    for row in rows:
        row["seconds"] = statistics.median(times[row["name"]])
        row["gflops"] = row["operations"] / row["seconds"] / 1e9
        row["images_per_second"] = row["batch_size"] / row["seconds"]
        row["share_of_peak"] = (row["operations"] / (2 * SIDE**3)
                                * measuring.ratio(peak, times[row["name"]]))
    return {
        "peak_gflops": {name: 2 * SIDE**3 / statistics.median(times[name]) / 1e9
                        for name in products},
        "steps": rows,
        "tried": {name: {"seconds": statistics.median(times[name]),
                         "ratio": measuring.ratio(times[name], times[AS_IT_IS])} for name in tried},
        "threads": {
            "as it is": with_threads(size, turns),
            "one operation at a time": with_threads(size, turns, TF_NUM_INTEROP_THREADS="1"),
            "one core": with_threads(
                size, turns, TF_NUM_INTEROP_THREADS="1", TF_NUM_INTRAOP_THREADS="1"),
        },
        "profile": profile(size),
        "times": times,
    }


def whole_run(name, result):
    """What all training steps of a recipe need, told in words."""
    from catdog.training.recipe import RECIPES

    recipe = RECIPES[name]
    rows = {row["image_size"]: row for row in result["steps"]
            if row["batch_size"] == recipe.batch_size}
    steps = [rows[size] for size in recipe.image_sizes()]
    operations, seconds = (sum(row[key] for row in steps) for key in ("operations", "seconds"))
    *_, peak = result["peak_gflops"].values()
    return (f"A step of every epoch of `{name}`: {operations / 1e9:,.0f} GFLOP in {seconds:.2f} "
            f"seconds, {operations / seconds / peak / 1e9:.0%} of the peak.")


def paragraphs(result, size, recipes):
    """The figures in words and tables."""
    whole, *fewer = result["threads"].items()
    return [
        f"Of {SIDE}x{SIDE}: " + ", ".join(
            f"{name} {gflops:,.0f} GFLOP/s" for name, gflops in result["peak_gflops"].items()),
        measuring.table(
            ["px", "batch", "ms a step", "photos/s", "GFLOP a step", "Muon's own GFLOP",
             "GFLOP/s", "share of the peak in bfloat16"],
            [[row["image_size"], row["batch_size"], row["seconds"] * 1e3,
              row["images_per_second"], row["operations"] / 1e9, row["muon_operations"] / 1e9,
              row["gflops"], f"{row['share_of_peak']:.0%}"] for row in result["steps"]]),
        *(whole_run(name, result) for name in recipes),
        measuring.table(
            [f"tried at {size} px, batch {BATCH}", "ms a step", "times as long"],
            [*([name, row["seconds"] * 1e3, f"{row['ratio']:.2f}"]
               for name, row in result["tried"].items()),
             *([name, seconds * 1e3, f"{seconds / whole[1]:.2f}"] for name, seconds in fewer)]),
        measuring.table(
            [f"a step at {size} px by TensorFlow's profiler", "share of the operations' time"],
            [[part, f"{share:.0%}"] for part, share in result["profile"].items()]),
    ]


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "step")
    parser.add_argument("--alone", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    from data import tf  # which imports Keras too, quietly, or says why it cannot

    tf.get_logger().setLevel("ERROR")  # it warns of several networks in one process
    if args.alone:
        size, turns = args.alone
        (times,) = seconds_in_turns({"a step": make_step(size)[0]}, turns).values()
        print(report.to_json({"seconds": statistics.median(times)}))
        return 0

    turns, size = (3, 48) if args.quick else (10, 64)
    result = measure(size, turns, args.quick)
    bars = {row["name"]: row["gflops"] for row in result["steps"]}
    *_, peak = result["peak_gflops"].values()
    save = measuring.plot("Training step (dashed: the matrix product in bfloat16)", "GFLOP/s", "",
                          lambda axis: measuring.bars(axis, bars, peak))
    recipes = () if args.quick else ("full", "fast")
    measuring.write("step", args, paragraphs(result, size, recipes), result, save)
    return 0


if __name__ == "__main__":
    terminal.run(main)
