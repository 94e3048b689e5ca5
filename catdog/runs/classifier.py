"""A trained network that classifies photos: `from catdog import Classifier`.

Neither TensorFlow nor Keras is loaded here, unless Keras is asked for.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from catdog import files
from catdog.backend import keras, layers, quiet
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos import photo
from catdog.runs import calibration, novelty, run, safe_load

logger = logging.getLogger(__name__)
CLIP = 0.005  # of a run that is not calibrated
LITERT_BATCH = 8  # photos; 64 at 200 px took 1.4 times as long per photo on two cores

Outputs = dict[str, np.ndarray]
Progress = Callable[[int, int], None]


class Classifier:
    """A trained network that computes probabilities.

        classifier = Classifier("weights")
        print(classifier.predict("photo.jpg"))        {'cat': 0.98, 'dog': 0.02}

    Threads may share one. It can be pickled: what is unpickled opens the run again. With LiteRT
    it also answers in a child of `fork`, which Keras does not.

    Args:
        folder: the run directory.
        load_network: returns the `keras.Model` of a run: `model.load`. It is needed for Keras only.
        runtime: "litert" runs `model.tflite`. If that file or the package ai-edge-litert is
            missing, Keras is used. "keras" runs `model.keras`, and takes seconds to start.
        mirror: average over each photo and its mirror image, as when the run was calibrated;
            a run that was trained with `--no-mirror` never does.
    Attributes:
        classes: the names.
        image_size: height and width in pixels of the photos that it takes.
        runtime: "LiteRT" or "Keras".
        config: the content of `config.json`.
        temperature, clip: of the calibration.
    Raises:
        UserError: no run directory, or one that is unfinished or damaged.
    """

    def __init__(
        self,
        folder: Path | str,
        load_network: Callable[[Path], keras.Model] | None = None,
        runtime: str = "litert",
        mirror: bool = True,
    ):
        self.run = Path(folder)
        self.config = run.read_config(folder)
        self.classes: list[str] = self.config["classes"]
        self.image_size: int = self.config["score_size"]
        self.temperature: float = self.config.get("temperature", 1.0)
        self.clip: float = self.config.get("clip", CLIP)
        self.mirror = mirror and self.config.get("settings", {}).get("mirror", True)
        run.check_trained(self.run)
        self.runtime, self._compute = "LiteRT", None
        self._made_of = (self.run.absolute(), load_network, runtime, mirror)
        if runtime == "litert":
            try:
                self._compute = LiteRT(
                    self.run / "model.tflite", self.config, self.config.get("litert_sha256")
                )
            except (FileNotFoundError, ImportError) as error:
                if load_network is None:
                    raise UserError(f"cannot load {printable(self.run)}: {error}") from None
                logger.warning(f"{error}: using Keras, which takes seconds to start")
        if self._compute is None:
            if load_network is None:
                raise ValueError("expected load_network, with which Keras loads the run, got None")
            network = for_prediction(load_network(self.run), self.image_size)
            self.runtime, lock = "Keras", threading.Lock()

            def compute(photos):
                with lock:
                    outputs = network.predict_on_batch(photos)
                return {name: np.asarray(value) for name, value in outputs.items()}

            self._compute = compute

    def __reduce__(self):
        return Classifier, self._made_of

    def outputs(self, images: np.ndarray) -> Outputs:
        """Return what the network computes, the mean of photo and mirror image.

        Args:
            images: uint8 `(n, image_size, image_size, 3)`, RGB.
        Returns:
            The outputs of `for_prediction`, float32.
        """
        images = np.asarray(images, np.float32)
        outputs = self._compute(images)
        if not self.mirror:
            return outputs
        mirrored = self._compute(images[:, :, ::-1])
        if "evidence" in mirrored:
            mirrored["evidence"] = mirrored["evidence"][:, :, ::-1]
        return {name: (value + mirrored[name]) / 2 for name, value in outputs.items()}

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of `outputs`."""
        return self.outputs(images)["logits"]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities `(n, classes)`, float64; the rows sum to 1."""
        return calibration.probabilities_from_logits(logits, self.temperature)

    def predict(self, path: Path | str) -> dict[str, float]:
        """Return the probability of each class for one photo; PhotoError if it cannot be read."""
        image = photo.load_photo(path, self.image_size)
        (probabilities,) = self.probabilities(self.logits(image[None]))
        return dict(zip(self.classes, probabilities.tolist(), strict=True))

    def outputs_of(
        self, dataset, members: np.ndarray, on_progress: Progress = lambda done, total: None
    ) -> Outputs:
        """Return `outputs`, without the evidence, of photos of a dataset, in order.

        Args:
            dataset: a `data.Dataset`.
            members: `(m,)` indices of its photos.
            on_progress: called with the number of photos that are done and of all.
        """
        found, done = {}, 0
        for batch in dataset.batches(members):
            for name, value in self.outputs(batch).items():
                if name != "evidence":
                    found.setdefault(name, []).append(value)
            done += len(batch)
            on_progress(done, len(members))
        return {name: np.concatenate(values) for name, values in found.items()}

    @functools.cached_property
    def reference(self) -> novelty.Reference | None:
        """What novelty is measured against, or None for a run without it."""
        return novelty.load(self.run, self.config)

    def novelty(self, outputs: Outputs) -> np.ndarray | None:
        """Return the novelty of each photo: the share of validation photos that are less novel.

        Args:
            outputs: what `outputs` returns of the photos.
        Returns:
            float64 `(n,)`, or None for a run without a reference.
        """
        if "features" not in outputs or self.reference is None:
            return None
        try:
            return self.reference.novelty(outputs["features"])
        except ValueError as error:  # the network was replaced
            logger.warning(f"{printable(self.run / novelty.FILE)}: {error}: nothing is unknown")
            self.reference = None
            return None

    def fit_novelty(
        self,
        dataset,
        validation_features: np.ndarray | None,
        on_progress: Progress = lambda done, total: None,
    ) -> None:
        """Fit what `novelty` needs and write it into the run, in place of what was there.

        Nothing is written with fewer than 100 validation photos, or without features.

        Args:
            dataset: a `data.Dataset`, whose training photos the network was trained on.
            validation_features: of `outputs_of` all validation photos, or None.
        """
        (self.run / novelty.FILE).unlink(missing_ok=True)
        self.__dict__.pop("reference", None)
        if validation_features is None or len(validation_features) < novelty.MIN_VALIDATION:
            return
        members = dataset.splits["train"]
        members = members[novelty.choose(dataset.labels[members], len(self.classes))]
        features = self.outputs_of(dataset, members, on_progress)["features"]
        reference = novelty.fit(features, validation_features, novelty.network_id(self.config))
        reference.save(self.run / novelty.FILE)

    def calibrate(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Fit temperature and clip to photos that were not trained on; write them into the run."""
        self.temperature = calibration.fit_temperature(logits, labels)
        changes = {"temperature": self.temperature}
        if len(self.classes) == 2:
            self.clip = calibration.fit_clip(self.probabilities(logits)[:, 1], labels)
            changes["clip"] = self.clip
        self.config |= changes
        run.update_config(self.run, **changes)


class LiteRT:
    """A `.tflite` file as a function of float32 photos, on all cores.

    The interpreter holds the tensors of one batch, so threads take turns: four threads that share
    it compute 240 photos/s on two cores, and 195 with an interpreter each, in 120 and 340 MB. A
    child of `fork` opens the file again, as the threads of the interpreter are not copied.

    Args:
        config: of the run.
        sha256: of the file, or None if it is not known.
    Raises:
        FileNotFoundError: no such file.
        ImportError: the package ai-edge-litert is missing.
        UserError: not a file that goes with `config`.
    """

    def __init__(self, path: Path, config: dict, sha256: str | None = None):
        self._arguments = path, config, sha256
        self._opened = {os.getpid(): (threading.Lock(), [_signature_runner(*self._arguments)])}

    def __call__(self, photos: np.ndarray) -> Outputs:
        path, *_ = self._arguments
        # `setdefault` is atomic. Of the parent process not even the lock is of use.
        lock, runners = self._opened.setdefault(os.getpid(), (threading.Lock(), []))
        parts = []
        for start in range(0, max(len(photos), 1), LITERT_BATCH):
            with lock, safe_load.refusing(path):
                if not runners:
                    runners.append(_signature_runner(*self._arguments))
                parts.append(runners[0](photos=photos[start : start + LITERT_BATCH]))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _signature_runner(path, config, sha256):
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{printable(path)} is not there")
    with quiet():  # it prints a line for every delegate that it makes
        from ai_edge_litert.interpreter import Interpreter

        with safe_load.refusing(path):
            safe_load.check_litert_file(path)
            if sha256 and files.sha256(path) != sha256:
                raise ValueError("its sha256 is not the one in config.json; model.py exports anew")
            interpreter = Interpreter(os.fspath(path), num_threads=os.cpu_count())
            safe_load.check_litert_network(
                interpreter, path.stat().st_size, config["score_size"], len(config["classes"])
            )
            interpreter.allocate_tensors()
            return interpreter.get_signature_runner()


def for_prediction(network: keras.Model, image_size: int) -> keras.Model:
    """Return a trained network as prediction runs it: at one image size, with named outputs.

    Input: `photos`, (batch, image_size, image_size, 3). Outputs, a dict:

    logits: (batch, 1), of class 1 of two classes, or (batch, classes).
    evidence: (batch, height, width, 1 or classes), the logits of every position of the last feature
        map. Their mean is `logits`: pooling and the output layer are linear, so that their order
        may be reversed. Without these two layers at the end there are only logits.
    features: (batch, 2 * channels), see catdog/runs/novelty.py.
    """
    photos = keras.Input((image_size, image_size, 3), name="photos")
    *_, pooling, dense = (x for x in network.layers if not isinstance(x, layers.Dropout))
    if not (isinstance(pooling, layers.GlobalAveragePooling2D) and isinstance(dense, layers.Dense)):
        return keras.Model(photos, {"logits": network(photos)})
    inner, last = keras.Model(network.inputs, [_inner_map(network), pooling.input])(photos)
    evidence = dense(last)
    outputs = {"logits": pooling(evidence), "evidence": evidence}
    if inner.shape[-1] == last.shape[-1]:
        inner = keras.ops.sqrt(keras.ops.mean(keras.ops.square(inner), axis=(1, 2)))
        last = keras.ops.max(last, axis=(1, 2))
        outputs["features"] = keras.ops.concatenate([inner, last], axis=-1)  # (batch, 2 * channels)
    return keras.Model(photos, outputs)


def _inner_map(network):
    """Return the first feature map after the last max-pooling: `plain`'s eighth convolution."""
    after = network.layers
    for number, layer in enumerate(network.layers):
        if isinstance(layer, layers.MaxPooling2D):
            after = network.layers[number + 1 :]
    return next(layer.output for layer in after if isinstance(layer, layers.ReLU))
