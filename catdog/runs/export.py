"""Fit the answer of a run to its validation photos; write both as a Keras and as a LiteRT file.

The network is exported twice. The constants of the answer are fitted to what the first file
computes, with eight-bit weights where these are as good; the second file has the constants in it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from catdog import files
from catdog.backend import keras
from catdog.errors import UserError
from catdog.runs import calibration, novelty
from catdog.runs.classifier import LiteRT, over, with_keras
from catdog.runs.run import Run

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
MOST_PHOTOS = 2000  # on which eight-bit weights are compared with Keras
# How much worse than Keras eight-bit weights may be, beyond chance.
MOST_WORSE = 0.002  # of the log loss
CHANCE = 0.05  # p-value, of the photos that only one of both gets right
LARGEST_CHANGE = 0.02  # of a probability, on average: a few photos cannot tell much else
LARGEST_DIFFERENCE = 1e-3  # of a probability, in float32

# The exporter needs the TensorFlow backend, prints a lot, and may end the process on a network that
# it does not know. It takes one request after another, and ends when its stdin does: with us.
CONVERT = """
import json, os, queue, sys, threading
answers, requests = os.dup(1), queue.Queue()
os.dup2(2, 1)
def listen():
    # Not sys.stdin.read(): its lock turns an exception of the main thread into an abort.
    while text := os.read(0, 65536):
        requests.put(json.loads(text))
    os._exit(1)
threading.Thread(target=listen, daemon=True).start()
sys.path.insert(0, sys.argv[1])
import keras, tensorflow as tf
from catdog.runs.answer import Answer
while True:
    source, target, weights, batch = requests.get()
    network = keras.saving.load_model(source, custom_objects={"Answer": Answer})
    more = {"optimizations": [tf.lite.Optimize.DEFAULT]} if weights == "eight-bit" else {}
    if batch == "one photo":
        shape = (1, *network.input_shape[1:])
        more["input_signature"] = [tf.TensorSpec(shape, tf.float32, name="photos")]
    network.export(target, format="litert", verbose=False, **more)
    os.write(answers, b"done")
"""


class Converter:
    """A process that writes networks as LiteRT: `with Converter() as convert: convert(...)`."""

    def __enter__(self) -> Converter:
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "-1",  # a GPU is not needed, rounds more, and may be full
        }
        self._errors = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            # -P: no module of the current folder is imported.
            [sys.executable, "-P", "-c", CONVERT, ROOT],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        return self

    def __exit__(self, *_) -> None:
        self._child.kill()
        self._child.communicate()
        self._errors.close()

    def __call__(self, source: Path, target: Path, weights: str, batch: str = "any size") -> None:
        """Write the graph in the `.keras` file `source` as LiteRT.

        Args:
            weights: `eight-bit` or `float32`.
            batch: the photos that the file takes at a time, `any size` or `one photo`.
        Raises:
            UserError: it cannot be converted.
        """
        request = [os.fspath(source), os.fspath(target), weights, batch]
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(request).encode())
        if not self._child.stdout.read(4) or not target.exists():
            self._errors.seek(0)
            errors = self._errors.read().decode(errors="replace")
            reason = errors.strip().rpartition("\n")[2][:300]
            raise UserError(
                f"cannot convert the network for LiteRT (exit code {self._child.wait()}): {reason}"
            )


def export(
    run: Run,
    network: keras.Model,
    dataset,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> str | None:
    """Fit the answer of a run to its validation photos; write it as Keras and as LiteRT.

    Both files get names of their own, and `config.json` is switched to them in one step.

    Args:
        network: the trained network.
        dataset: a `data.Dataset` with validation photos, on whose training photos the network was
            trained.
    Returns:
        The weights of `model.tflite`, "eight-bit" or "float32"; None if there is no such file: the
        reason is logged.
    """
    config, validation = run.config, dataset.splits["validation"]
    files.remove_leftovers(run.folder)
    graph = _with_photos(network, run, dataset, on_progress)
    labels = dataset.labels[validation]
    try:
        with files.temporary_folder(run.folder / "export") as work, Converter() as convert:
            found, weights = _outputs(graph, convert, work, config, dataset, on_progress)
            changes = _fit(graph, found, labels, len(config["classes"]))
            graph.answering.save(work / "model.keras")
            if weights:
                convert(work / "model.keras", work / "model.tflite", weights)
                compute = LiteRT(work / "model.tflite", config)
                _check_answers(compute, found["logits"], changes["temperature"], dataset)
            run.switch(sorted(work.glob("model.*")), **changes, litert_weights=weights)
    except OSError as error:
        raise UserError(f"cannot write {run}: {error.strerror or error}") from None
    return weights


def _with_photos(network, run, dataset, on_progress):
    """Return the graph of a network, with the training photos that others are compared with."""
    from catdog.runs import answer  # which loads Keras

    given = network, run.config["score_size"], run.settings.mirror
    graph, count = answer.Graph(*given), len(dataset.splits["validation"])
    members = dataset.splits["train"]
    members = members[novelty.choose(dataset.labels[members], len(run.config["classes"]))]
    has_features = "features" in graph.features.output
    if not has_features or count < novelty.MIN_VALIDATION or not len(members):
        return graph
    features = over(with_keras(graph.features), dataset, members, on_progress)["features"]
    graph = answer.Graph(*given, photos=len(members), scores=min(count, novelty.MAX_SCORES))
    graph.answer.set(directions=novelty.directions(features))
    return graph


def _outputs(graph, convert, work, config, dataset, on_progress):
    """Return what the answer is fitted to, of all validation photos, and the weights behind it."""
    members = dataset.splits["validation"]
    some = np.unique(np.linspace(0, len(members) - 1, MOST_PHOTOS).astype(int))
    in_keras, labels = with_keras(graph.fitting), dataset.labels[members]
    expected = over(in_keras, dataset, members[some], on_progress)["logits"]
    source, target = work / "fitting.keras", work / "fitting.tflite"
    try:
        graph.fitting.save(source)
        for weights in ("eight-bit", "float32"):
            convert(source, target, weights)
            found = over(LiteRT(target, config), dataset, members, on_progress)
            reason = worse(weights, expected, found["logits"][some], labels[some])
            if reason is None:
                return found, weights
            logger.warning(f"model.tflite with {weights} weights: {reason}")
        raise UserError("the file computes something else")
    except (UserError, ImportError) as error:
        logger.warning(f"could not write model.tflite, so predict.py starts more slowly: {error}")
    return over(in_keras, dataset, members, on_progress), None


def worse(weights: str, expected: np.ndarray, got: np.ndarray, labels: np.ndarray) -> str | None:
    """Return in words by how much logits are worse than those of Keras, or None.

    Eight bits change a label now and then, for better or worse: only what is hardly chance counts.
    """
    if not np.isfinite(got).all():
        return "some logits are not finite"
    temperature = calibration.fit_temperature(expected, labels)
    before, after = (
        calibration.probabilities_from_logits(logits, temperature) for logits in (expected, got)
    )
    change = np.abs(after - before).max(axis=1)
    if weights == "float32":
        return None if change.max() <= LARGEST_DIFFERENCE else f"differs by {change.max():.2g}"
    right = [probabilities.argmax(1) == labels for probabilities in (before, after)]
    lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    losses = [calibration.losses(probabilities, labels) for probabilities in (before, after)]
    difference = losses[1] - losses[0]
    surely = difference.mean() - 1.645 * difference.std() / len(labels) ** 0.5
    of = f"on {len(labels):,} photos; float32 is used"
    if chance_of(lost, won) < CHANCE:
        return f"{lost} labels become wrong, {won} right, {of}"
    if surely > MOST_WORSE:
        return f"log loss worse by {difference.mean():.4f} {of}"
    if change.mean() > LARGEST_CHANGE:
        return f"probabilities change by {change.mean():.3f} on average {of}"
    return None


def chance_of(lost: int, won: int) -> float:
    """Return how probable it is that of lost + won labels so many or more are lost by chance."""
    from scipy.stats import binomtest

    return binomtest(lost, lost + won, alternative="greater").pvalue if lost else 1.0


def _fit(graph, found, labels, classes):
    """Give the answer its constants; return what `config.json` says of them."""
    logits, answer = found["logits"], graph.answer
    if not np.isfinite(logits).all():
        raise UserError("the network computes numbers that are not finite")
    temperature = calibration.fit_temperature(logits, labels)
    answer.set(temperature=[temperature])
    if answer.photos:
        answer.set(**novelty.fit(found["parts"], answer.scores))
    changes = {"answer": {"photos": answer.photos, "scores": answer.scores}}
    changes["temperature"] = temperature
    if classes == 2:
        probabilities = calibration.probabilities_from_logits(logits, temperature)
        changes["clip"] = calibration.fit_clip(probabilities[:, 1], labels)
    return changes


def _check_answers(compute, logits, temperature, dataset):
    """Raise UserError unless the file that was exported last answers as the one before."""
    (images, *_) = dataset.batches(dataset.splits["validation"])
    got = compute(images)["probabilities"]
    expected = calibration.probabilities_from_logits(logits[: len(images)], temperature)
    if not np.abs(got - expected).max() <= LARGEST_DIFFERENCE:
        raise UserError("cannot export to LiteRT: the file computes something else")
