"""Converts a network for the page: LiteRT, eight-bit weights, one photo at a time."""

import logging
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from catdog.errors import UserError
from catdog.photos import drawings
from catdog.runs import export

logger = logging.getLogger(__name__)
TOLERANCE = 0.05  # largest difference to Keras of a probability


def small_network(network, try_eight_bit: bool = True) -> bytes:
    """Return the .tflite file of an answering graph, for batches of one photo.

    Its weights have eight bits, unless that changes the probabilities of drawings by more than
    `TOLERANCE` or is not to be tried.

    Raises:
        UserError: the network cannot be converted, or the file answers differently from Keras.
    """
    for weights in ("eight-bit", "float32") if try_eight_bit else ("float32",):
        content = convert(network, weights)
        difference = largest_difference(network, content)
        if difference <= TOLERANCE:
            return content
        if weights == "eight-bit":
            logger.warning(
                f"the page has float32 weights: with eight bits, probabilities of drawings differ "
                f"by up to {difference:.2f}"
            )
    raise UserError(f"the converted network differs from Keras by {difference:.2g} in probability")


def convert(network, weights: str) -> bytes:
    """Return the .tflite file of a graph, with `eight-bit` or `float32` weights."""
    with tempfile.TemporaryDirectory() as folder, export.Converter() as converter:
        source, target = Path(folder, "network.keras"), Path(folder, "network.tflite")
        network.save(source)
        # LiteRT.js refuses a network for batches of any size.
        converter(source, target, weights, batch="one photo")
        return target.read_bytes()


def largest_difference(network, content: bytes) -> float:
    """Return the largest difference between the probabilities of Keras and of a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner()
    differences = []
    for number in range(8):
        image = drawings.draw(number % 2, np.random.default_rng(number), 128)
        image = image.resize(network.input_shape[1:3], Image.Resampling.BILINEAR)
        photo = np.asarray(image, np.float32)[None]
        expected = network.predict_on_batch(photo)["probabilities"]
        differences.append(np.abs(expected - runner(photos=photo)["probabilities"]).max())
    return float(np.max(differences))
