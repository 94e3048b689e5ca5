"""Load the numbers of a trained network from a file that may come from somebody else.

The architecture comes from `config.json` of the run and from model.py, so that nothing in the file
decides what code runs. The file is compared with that architecture before its numbers are read.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import files
from catdog.backend import keras
from catdog.errors import UserError

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

MAX_OVERHEAD = 2**20  # bytes of a weights file beside the weights; the largest of ours has 130,000
VALUES_PER_PIXEL = 128  # in the output of a layer, for every pixel of the photo; ours have 32


# --- model.keras ----------------------------------------------------------------------------------


def load_weights(network: keras.Model, path: Path) -> None:
    """Give a network the numbers in a `.keras` file, if it is what Keras writes for the network.

    Keras refuses links, and values that lie outside the file. The shapes are compared first, as a
    dataset without values may claim any.
    """
    with files.reading(path):
        files.check_readable(path)
        expected = sorted(tuple(weight.shape) for weight in network.weights)
        most = 4 * sum(map(math.prod, expected)) + MAX_OVERHEAD
        with zipfile.ZipFile(path) as archive:
            if (size := archive.getinfo("model.weights.h5").file_size) > most:
                raise ValueError(f"expected weights of up to {most:,} bytes, got {size:,}")
            stored = stored_shapes(io.BytesIO(archive.read("model.weights.h5")))
        if stored != expected:
            raise ValueError(
                f"expected {len(expected)} arrays of the network {network.name}, got {len(stored)}"
                + (" of other shapes" if len(stored) == len(expected) else "")
            )
        network.load_weights(path)


def check_large_enough(path: Path, network_of: Callable[[int], keras.Model], size: int) -> None:
    """Raise ValueError if a file is too small for a network whose weights grow with the pixels.

    It is not made: its weights are estimated from those for smaller photos. Half of their four
    bytes each, since windows that do not fit at the border are left out.

    Args:
        network_of: builds the network for an image size.
        size: the image size that the file is for.
    """
    if size <= 128:
        return
    small, large = (network_of(each).count_params() for each in (64, 128))
    if path.stat().st_size < 2 * (large - small) / (128**2 - 64**2) * size**2:
        raise ValueError(f"expected a network for photos of {size} px, got a smaller file")


def copy_weights(donor: keras.Model, network: keras.Model, same_classes: bool) -> None:
    """Copy the weights of a trained network; skip the output layer unless `same_classes`.

    Raises:
        UserError: it is another network, or for photos of another size.
    """
    wanted, got = (f"{each.name} at {each.input_shape[1] or 'any'} px" for each in (network, donor))
    if got != wanted:
        raise UserError(f"expected a run of the network {wanted}, got {got}")
    kept = len(network.layers) if same_classes else -1
    for layer, trained in zip(network.layers[:kept], donor.layers, strict=False):
        layer.set_weights(trained.get_weights())


def stored_shapes(file: io.BytesIO) -> list[tuple[int, ...]]:
    """Return the shapes of the weights in an HDF5 file, sorted."""
    import h5py

    shapes = []

    def visit(name, item):  # of each object once; links are not followed
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name:  # that of dropout
            shapes.append(item.shape)

    h5py.File(file, "r").visititems(visit)
    return sorted(shapes)


# --- model.tflite ---------------------------------------------------------------------------------


def check_litert_network(
    interpreter: Interpreter, file_size: int, score_size: int, classes: int
) -> None:
    """Raise ValueError unless a network fits `config.json`; nothing is allocated yet."""
    most = max(file_size, VALUES_PER_PIXEL * score_size**2)
    for tensor in interpreter.get_tensor_details():
        size = math.prod(map(int, tensor["shape"]))
        if not 0 <= size <= most:
            raise ValueError(f"a tensor of {size:,} values")
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    photos = inputs["photos"]["shape"].tolist()
    if set(inputs) != {"photos"} or photos[1:] != [score_size, score_size, 3]:
        raise ValueError(f"expected photos of {score_size} px, as config.json says, got {photos}")
    if "probabilities" in outputs:
        name, expected = "probabilities", classes
    else:  # what an answer is fitted to, or a run of an earlier release
        name, expected = "logits", 1 if classes == 2 else classes
    got = int(outputs[name]["shape"][-1])
    if got != expected:
        raise ValueError(
            f"expected a network of {classes} classes, as config.json says, got one of {got} "
            "outputs"
        )
