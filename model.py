"""The networks by name, each readable from top to bottom.

    python model.py                                   their layers
    python model.py --export litert --model RUN       write the .tflite file of a run
    python model.py --page cats.html --model RUN      a page that runs it in a browser

Input: (batch, height, width, 3), RGB, values 0-255; the pixels are scaled inside the network.
Output: (batch, 1), the logit of the second of two classes; (batch, classes) of more.
"""

# Annotations such as keras.Model must not load Keras at import time.
from __future__ import annotations

if __name__ == "__main__":
    from catdog import early

    early.end_quietly()  # at Ctrl-C, while the modules below are loaded

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import cli
from catdog.backend import keras, layers
from catdog.errors import UserError
from catdog.photos.found import MOST_CLASSES
from catdog.runs.run import Run
from catdog.scores import tables
from catdog.training.settings import Settings

if TYPE_CHECKING:
    from keras import KerasTensor

    from catdog.runs import answer


ARCHITECTURES: dict[str, Callable] = {}  # the networks by name
SMALLEST: dict[str, int] = {}  # px: the smallest image of each network that takes any size
FIXED_SIZE = 64  # px: the default of the others, whose weights grow with the number of pixels


def network(function: Callable | None = None, *, smallest: int | None = None) -> Callable:
    """Decorator: add a function to `ARCHITECTURES` under its name.

    Args:
        smallest: height and width in px of the smallest image, for a network that takes images of
            any size. None for a network whose weights fit one size only.
    """
    if function is None:
        return functools.partial(network, smallest=smallest)
    ARCHITECTURES[function.__name__] = function
    if smallest:
        SMALLEST[function.__name__] = smallest
    return function


@network(smallest=32)
def plain(inputs: KerasTensor, outputs: int, dropout: float) -> KerasTensor:
    """The default: ten 3x3 convolutions and five poolings, for any image size of 32 and more."""
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # 0..255 -> -1..1
    # For an input of 128 px:
    x = conv(x, 32, pool=True)  # (batch, 64, 64, 32)
    x = conv(x, 64, pool=True)  # (batch, 32, 32, 64)
    x = conv(x, 128)
    x = conv(x, 128, pool=True)  # (batch, 16, 16, 128)
    x = conv(x, 192)
    x = conv(x, 192, pool=True)  # (batch, 8, 8, 192)
    x = conv(x, 256)
    x = conv(x, 256, pool=True)  # (batch, 4, 4, 256)
    x = conv(x, 256)
    x = conv(x, 256)
    x = layers.GlobalAveragePooling2D()(x)  # (batch, 256)
    x = layers.Dropout(dropout)(x)
    return output(x, outputs)


def conv(x: KerasTensor, filters: int, pool: bool = False) -> KerasTensor:
    """Convolution, batch normalization, ReLU; with max-pooling that halves height and width.

    Pooling comes before normalization (as in KellerJordan/cifar10-airbench). Normalizing a quarter
    of the values makes a training step 1.6 times faster in float32, 2.2 times in bfloat16.
    """
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    if pool:
        x = layers.MaxPooling2D()(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x)


@network
def classic(inputs: KerasTensor, outputs: int, dropout: float) -> KerasTensor:
    """The textbook stack: conv, ReLU, conv, ReLU, pool, ReLU, conv, ReLU, pool, fully connected."""
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # 0..255 -> -1..1
    # For an input of 64 px:
    x = layers.Conv2D(32, 3, padding="same")(x)  # (batch, 64, 64, 32)
    x = layers.ReLU()(x)
    x = layers.Conv2D(32, 3, padding="same")(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(x)  # (batch, 32, 32, 32)
    x = layers.ReLU()(x)  # as in the textbook, although the ReLU before pooling makes it redundant
    x = layers.Conv2D(64, 3, padding="same")(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(x)  # (batch, 16, 16, 64)
    x = layers.Flatten()(x)  # (batch, 16384)
    x = layers.Dense(128)(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(dropout)(x)
    return output(x, outputs)


@network
def dnn(inputs: KerasTensor, outputs: int, dropout: float) -> KerasTensor:
    """Fully connected layers only: no layer knows which pixels are neighbours."""
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # 0..255 -> -1..1
    # For an input of 64 px:
    x = layers.Flatten()(x)  # (batch, 12288)
    x = layers.Dense(256)(x)
    x = layers.ReLU()(x)
    x = layers.Dense(128)(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(dropout)(x)
    return output(x, outputs)


def output(x: KerasTensor, outputs: int) -> KerasTensor:
    """Return the fully connected output, float32 whatever the precision of the other layers."""
    return layers.Dense(outputs, dtype="float32")(x)


def build(arch: str, classes: int, image_size: int | None, dropout: float = 0.0) -> keras.Model:
    """Build a network with fresh weights.

    Args:
        arch: a name from `ARCHITECTURES`.
        classes: number of classes, 2 or more.
        image_size: height and width in px of the images; None for any size, if `arch` takes it.
        dropout: fraction of the last features that are zeroed in training, from 0 to below 1.
    Returns:
        An uncompiled model of plain Keras layers; see the top of this file for its shapes.
    """
    inputs = keras.Input((image_size, image_size, 3))
    outputs = ARCHITECTURES[arch](inputs, 1 if classes == 2 else classes, dropout)
    return keras.Model(inputs, outputs, name=arch)


def from_settings(settings: Settings, classes: int) -> keras.Model:
    """Build the network that the settings name, to be trained on the given number of classes."""
    check_size(settings.arch, settings.image_size)
    size = None if takes_any_size(settings.arch) else settings.image_size
    return build(settings.arch, classes, size, settings.dropout)


def takes_any_size(arch: str) -> bool:
    """Return whether a network takes images of any size, with the same weights."""
    return arch in SMALLEST


def check_size(arch: str, image_size: int) -> None:
    """Raise UserError if there is no such network, or if the image size is too small for it."""
    if arch not in ARCHITECTURES:
        raise UserError(
            f"expected one of the networks {', '.join(ARCHITECTURES)}, got {str(arch)[:80]}"
        )
    if arch in SMALLEST and image_size < SMALLEST[arch]:
        raise UserError(
            f"expected an image size of {SMALLEST[arch]} or more for the network {arch}, got "
            f"{image_size}"
        )


def load(folder: Path | str) -> answer.Graph:
    """Load a trained run: layers from the code, numbers from its `.keras` file.

    Returns:
        An `answer.Graph`. Its `network` is the trained network; its `answering` is the network with
        calibration and novelty, as predict.py runs it.
    """
    from catdog.runs import answer  # which loads Keras

    run = Run(folder)
    arch, classes = run.settings.arch, len(run.config["classes"])
    run.check_trained()
    check_size(arch, run.config["score_size"])
    size = None if takes_any_size(arch) else run.config["score_size"]
    return answer.load(run, functools.partial(build, arch, classes), size)


# --- The script -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    from catdog.runs import formats

    parser = argparse.ArgumentParser(
        description="Print the layers of the networks, or export a trained network.",
        parents=[cli.data_arguments(default=None, said="that of the run"), formats.flags()],
    )
    add = parser.add_argument
    # fmt: off
    add("--arch", choices=ARCHITECTURES, help="print this network only")
    add("--image-size", type=cli.whole_number(min(SMALLEST.values()), 1024), metavar="PX",
        help=f"height and width of the photos in pixels (default: 128, or {FIXED_SIZE} for a "
        "network of a fixed size)")
    add("--classes", type=cli.whole_number(2, MOST_CLASSES), default=2, metavar="N",
        help="number of classes (default: 2)")
    # fmt: on
    args = parser.parse_args(argv)
    if formats.are_asked_for(args, parser):
        import data  # calibration and novelty are fitted to the photos of a run

        with cli.blame("--model"):
            run = Run(args.model)
            graph = load(run.folder)
        formats.write(args, run, graph, data.load_for)
        return 0
    for arch in [args.arch] if args.arch else ARCHITECTURES:
        size = args.image_size or (128 if takes_any_size(arch) else FIXED_SIZE)
        print(f"{arch}, {args.classes} classes, photos of {size} px\n")
        print(*tables.layer_rows(build(arch, args.classes, size)), "", sep="\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
