"""Converts a network for the page: LiteRT, eight-bit weights, one photo at a time."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from catdog.errors import UserError
from catdog.files import printable
from catdog.photos import drawings

TOLERANCE = 0.05  # largest difference to Keras of a probability, at temperature 1


def small_network(network, try_eight_bit: bool = True) -> bytes:
    """Return the .tflite file of a network for prediction, for batches of one photo.

    Its weights have eight bits, unless that changes the probabilities of drawings by more than
    `TOLERANCE` or is not to be tried.

    Raises:
        UserError: the network cannot be converted, or the file answers differently from Keras.
    """
    for eight_bit in (True, False) if try_eight_bit else (False,):
        content = convert(network, eight_bit)
        difference = largest_difference(network, content)
        if difference <= TOLERANCE:
            return content
    raise UserError(f"the converted network differs from Keras by {difference:.2g} in probability")


def convert(network, eight_bit: bool) -> bytes:
    """Convert a network in a process of its own.

    The converter needs Keras's TensorFlow backend, prints a lot, and on a network that it does not
    know may end the whole process.
    """
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",  # a GPU is not needed, rounds more, and may be full
    }
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "network.keras"), Path(folder, "network.tflite")
        network.save(source)
        child = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from catdog.runs.page import convert; convert.child(*sys.argv[1:])",
                source,
                target,
                "eight-bit" if eight_bit else "float",
            ],
            cwd=Path(__file__).parents[3],
            env=environment,
            capture_output=True,
        )
        if child.returncode or not target.exists():
            reason = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise UserError(
                f"cannot convert the network for LiteRT (exit code {child.returncode}): "
                f"{printable(reason[:300])}"
            )
        return target.read_bytes()


def child(source: str, target: str, weights: str) -> None:
    """Convert the .keras file `source`; `weights` is `eight-bit` or `float`."""
    from catdog.backend import keras, tf

    network = keras.saving.load_model(source, compile=False)
    # LiteRT.js refuses a network for batches of any size.
    shape = (1, *network.input_shape[1:])
    options = {"input_signature": [tf.TensorSpec(shape, tf.float32, name="photos")]}
    if weights == "eight-bit":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    network.export(target, format="litert", verbose=False, **options)


def largest_difference(network, content: bytes) -> float:
    """Return the largest difference between the probabilities of Keras and of a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner()
    differences = []
    for number in range(8):
        image = drawings.draw(number % 2, np.random.default_rng(number), 128)
        image = image.resize(network.input_shape[1:3], Image.Resampling.BILINEAR)
        photo = np.asarray(image, np.float32)[None]
        expected = _probabilities(np.asarray(network.predict_on_batch(photo)["logits"]))
        got = _probabilities(runner(photos=photo)["logits"])
        differences.append(np.abs(expected - got).max())
    return float(np.max(differences))


def _probabilities(logits):
    """Softmax; one logit is that of the second of two classes."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
