"""Write `model.tflite`, the network of a run for prediction without Keras and TensorFlow."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from catdog import files
from catdog.backend import keras
from catdog.errors import UserError
from catdog.files import printable
from catdog.runs import calibration, run
from catdog.runs.classifier import Classifier, LiteRT

logger = logging.getLogger(__name__)
MOST_PHOTOS = 2000  # that a file is checked on
BATCH = 32  # photos
MOST_WORSE = {"accuracy": 0.001, "log loss": 0.002}  # that a file of eight-bit weights may be
LARGEST_DIFFERENCE = 1e-4  # of a logit, in float32

# The exporter needs the TensorFlow backend, prints a lot, and may end the process on a network that
# it does not know. Its process ends with ours, when nobody holds the other end of its stdin.
CONVERT = """
import os, sys, threading
# Not sys.stdin.read(): its lock turns an exception of the main thread into an abort of the process.
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
import keras, tensorflow as tf
source, target, weights, batch = sys.argv[1:]
network = keras.saving.load_model(source)
more = {"optimizations": [tf.lite.Optimize.DEFAULT]} if weights == "eight-bit" else {}
if batch == "one photo":
    shape = (1, *network.input_shape[1:])
    more["input_signature"] = [tf.TensorSpec(shape, tf.float32, name="photos")]
network.export(target, format="litert", verbose=False, **more)
os._exit(0)
"""


def export(
    folder: Path | str, network: keras.Model, images: np.ndarray, labels: np.ndarray
) -> None:
    """Write `model.tflite` into a run, with weights of eight bits if it is as good as Keras.

    Args:
        folder: the run directory.
        network: as `classifier.for_prediction` returns it.
        images: uint8 (n, size, size, 3), photos that the network was not trained on; some 2,000 of
            them are used.
        labels: (n,) int.
    Raises:
        UserError: the file cannot be made, or computes something else; there is none then.
    """
    folder = Path(folder)
    some = np.unique(np.linspace(0, len(images) - 1, MOST_PHOTOS).astype(int))
    images, labels = images[some], np.asarray(labels)[some]
    expected = _logits(network.predict_on_batch, images)
    config = run.read_config(folder)
    files.remove_leftovers(folder)
    with files.atomic_file(folder / "model.tflite") as path:
        source = path.with_suffix(".keras")
        try:
            network.save(source)
            for weights in ("eight-bit", "float32"):
                convert(source, path, weights)
                got = _logits(_load(path, config), images)
                reason = _worse(weights, expected, got, labels)
                if reason is None:
                    break
                logger.warning(f"model.tflite with {weights} weights: {reason}")
            else:
                raise UserError("cannot export to LiteRT: the file computes something else")
        finally:
            source.unlink(missing_ok=True)
        digest = files.sha256(path)
    run.update_config(folder, litert_sha256=digest, litert_weights=weights)


def bring_up_to_date(folder: Path | str, network: keras.Model, dataset) -> None:
    """Write `model.tflite` and what novelty needs into a finished run; see `export`.

    Args:
        dataset: a `data.Dataset` of the photos of the run.
    """
    members = dataset.splits["validation"]
    export(folder, network, dataset.images[members], dataset.labels[members])
    classifier = Classifier(folder)
    classifier.fit_novelty(dataset, classifier.outputs_of(dataset, members).get("features"))


def _logits(compute, images):
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate(
        [np.asarray(compute(batch.astype(np.float32))["logits"]) for batch in batches]
    )


def _load(path, config):
    try:
        return LiteRT(path, config)
    except ImportError as error:
        raise UserError(f"cannot export to LiteRT: {error}") from None


def convert(source: Path, target: Path, weights: str, batch: str = "any size") -> None:
    """Write the network in the `.keras` file `source` as LiteRT, in a process of its own.

    Args:
        weights: `eight-bit` or `float32`.
        batch: the photos that the file takes at a time, `any size` or `one photo`.
    Raises:
        UserError: it cannot be converted.
    """
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",  # a GPU is not needed, rounds more, and may be full
    }
    # -P: no module of the current folder is imported.
    command = [sys.executable, "-P", "-c", CONVERT, source, target, weights, batch]
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            errors = child.stderr.read()
            code = child.wait()
        finally:
            child.kill()
    if code or not target.exists():
        reason = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(
            f"cannot convert the network for LiteRT (exit code {code}): {printable(reason[:300])}"
        )


def _worse(weights, expected, got, labels):
    """Return in words by how much logits are worse than those of Keras, or None."""
    if weights == "float32":
        difference = float(np.abs(got - expected).max())
        return None if difference <= LARGEST_DIFFERENCE else f"logits differ by {difference:.2g}"
    temperature = calibration.fit_temperature(expected, labels)
    before, after = (_scores(logits, labels, temperature) for logits in (expected, got))
    for name, most in MOST_WORSE.items():
        difference = after[name] - before[name]
        if not difference <= most:
            return f"{name} worse by {difference:.4f} on {len(labels):,} photos; float32 is used"
    return None


def _scores(logits, labels, temperature):
    """Return error rate and log loss."""
    probabilities = calibration.probabilities_from_logits(logits, temperature)
    right = probabilities[np.arange(len(labels)), labels]
    return {
        "accuracy": float((probabilities.argmax(1) != labels).mean()),
        "log loss": float(-np.log(right.clip(calibration.SMALLEST_PROBABILITY)).mean()),
    }
