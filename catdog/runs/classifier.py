"""A trained network that classifies photos: `from catdog import Classifier`.

Neither TensorFlow nor Keras is loaded here, unless Keras is asked for.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from catdog import files
from catdog.backend import keras, quiet
from catdog.errors import UserError
from catdog.photos import decode, photo
from catdog.photos.photo import PhotoError
from catdog.runs import calibration, novelty, safe_load
from catdog.runs.run import Run

if TYPE_CHECKING:
    from catdog.runs import answer

logger = logging.getLogger(__name__)
LITERT_BATCH = 4  # photos; with their mirror images 8, of which 64 took 1.4 times as long each

Outputs = dict[str, np.ndarray]
Progress = Callable[[int, int], None]


Photo = str | os.PathLike | bytes | Image.Image | np.ndarray | BinaryIO


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction(Mapping):
    """What is known of a photo. As a mapping, it holds the probability of each class.

    Attributes:
        label: the most probable class; None if the photo is unknown or cannot be read.
        probability: of the most probable class; None if the photo cannot be read.
        unknown: whether the photo is unlike those of all classes.
        novelty: how unlike it is, 0 to 1; None for a run without novelty.
        probabilities: by class.
        error: why the photo cannot be read, or None.
        path: of a photo that was given as one.
        evidence: `(height, width, outputs)` as in answer.py, where `batches` is asked for it.
    """

    label: str | None = None
    probability: float | None = None
    unknown: bool = False
    novelty: float | None = None
    probabilities: dict[str, float] = dataclasses.field(default_factory=dict)
    error: PhotoError | None = None
    path: str | None = None
    evidence: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def best(self) -> str:
        """The most probable class, of an unknown photo too."""
        return max(self.probabilities, key=self.probabilities.get)

    def __getitem__(self, name: str) -> float:
        return self.probabilities[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.probabilities)

    def __len__(self) -> int:
        return len(self.probabilities)


class Classifier:
    """A trained network that computes probabilities.

        classifier = Classifier()
        print(classifier.predict("photo.jpg").label)

    Threads may share one. It can be pickled: what is unpickled opens the run again. With LiteRT
    it also answers in a child of `fork`, which Keras does not.

    Args:
        folder: the run directory; by default that of the project's own network.
        load: returns the `answer.Graph` of a run: `model.load`. It is needed for Keras only.
        runtime: "litert" runs the `.tflite` file. If that file or the package ai-edge-litert is
            missing, Keras is used. "keras" runs the `.keras` file, and takes seconds to start.
        unknown_at: the novelty from which on a photo is unknown (default: 0.99); 1 for never.
    Attributes:
        classes: the names.
        score_size: height and width in pixels of the photos that it takes.
        runtime: "LiteRT" or "Keras".
        config: the content of `config.json`.
    Raises:
        UserError: no run directory, or one that is unfinished or damaged.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        load: Callable[[Path], answer.Graph] | None = None,
        runtime: str = "litert",
        unknown_at: float | None = None,
    ):
        self.run = Run(folder)
        self.config = self.run.config
        self.classes: list[str] = self.config["classes"]
        self.score_size: int = self.config["score_size"]
        self.call_unknown_at(unknown_at)
        self._made_of = (self.run.folder.absolute(), load, runtime)
        self.run.check_trained()
        self.runtime, self._compute = "LiteRT", None
        if runtime == "litert":
            try:
                self._compute = LiteRT(self.run.network_file(".tflite"), self.config)
            except (FileNotFoundError, ImportError) as error:
                if load is None:
                    raise UserError(f"cannot load {self.run}: {error}") from None
                logger.warning(f"{error}: using Keras, which takes seconds to start")
        if "answer" not in self.config:
            logger.warning(
                f"{self.run} has no novelty yet: no photo is called unknown. To bring it up to "
                f"date:  {self.run.completed_by()}"
            )
            if self._compute:
                self._compute = _with_answer(self._compute, self.run)
        if self._compute is None:
            if load is None:
                raise ValueError("expected load, with which Keras loads the run, got None")
            self.runtime, self._compute = "Keras", with_keras(load(self.run).answering)

    def __reduce__(self):
        return Classifier, (*self._made_of, self._limit)

    def call_unknown_at(self, limit: float | None) -> None:
        """Set the novelty from which on a photo is unknown; see `unknown_at`."""
        novelty.check_limit(limit, self.run.novelty_photos)
        self._limit = limit
        self.unknown_at = novelty.DEFAULT_LIMIT if limit is None else limit

    def outputs(self, images: np.ndarray) -> Outputs:
        """Return the answer of the network, with that to the mirror image averaged.

        Args:
            images: uint8 `(n, score_size, score_size, 3)`, RGB.
        Returns:
            `probabilities` `(n, classes)`, calibrated; `novelty` `(n,)`, 0 to 1, if the run has it;
            `evidence` `(n, height, width, 1 or classes)`, if the network has it.
        Raises:
            UserError: the numbers are not finite.
            ValueError: the images have another size or type.
        """
        shape = (self.score_size, self.score_size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"expected uint8 (n, *{shape}), got {images.dtype} {images.shape}")
        outputs = self._compute(images)
        if not np.isfinite(outputs["probabilities"]).all():
            raise UserError(
                f"expected finite probabilities, got nan: the weights in {self.run} are damaged"
            )
        return outputs

    def predict(self, photos: Photo | Iterable[Photo]) -> Prediction | list[Prediction]:
        """Label one photo, or many.

        Args:
            photos: a path, the bytes of a file, an open file, a PIL image, or an array of any
                library: uint8, `(height, width)`, `(height, width, 1)`, RGB `(height, width, 3)` or
                RGBA `(height, width, 4)`, of any size; or several of them.
        Returns:
            A prediction, or a list of them in the same order.
        Raises:
            PhotoError: one photo was given that cannot be read. Of many, `error` says it.
        """
        photos = _plain(photos)
        if not _is_one(photos):
            return list(self.stream(photos))
        return self._predictions([(photos, read(photos, self.score_size))])[0]

    def stream(self, photos: Iterable[Photo]) -> Iterator[Prediction]:
        """Yield the predictions for photos, in order, while the next ones are read and decoded."""
        for batch in self.batches((each, None) for each in photos):
            yield from batch

    def batches(
        self,
        found: Iterable[tuple[Photo, PhotoError | None]],
        on_progress: Callable[[int, int | None], None] = lambda done, total: None,
        evidence: bool = False,
    ) -> Iterator[list[Prediction]]:
        """Yield lists of predictions, in order, each list as soon as it is known.

        Args:
            found: as `decode.find` yields them.
            on_progress: called with how many are done and, once it is known, of how many.
            evidence: whether predictions hold it.
        """
        waiting, done = decode.Stream(found, self.score_size, read), 0
        for batch in waiting.batches():
            yield self._predictions(batch, evidence)
            done += len(batch)
            on_progress(done, waiting.found if waiting.complete else None)
        on_progress(done, done)

    def _predictions(self, batch, with_evidence=False):
        """Return a prediction for each (photo, image or PhotoError)."""
        good = [image for _, image in batch if not isinstance(image, PhotoError)]
        outputs = self.outputs(np.stack(good)) if good else {"probabilities": []}
        names = ("probabilities", "novelty", *(["evidence"] if with_evidence else []))
        answers = zip(*(outputs.get(name, [None] * len(good)) for name in names), strict=True)
        return [self._one(source, image, answers) for source, image in batch]

    def _one(self, source, image, answers):
        path = os.fsdecode(source) if isinstance(source, str | os.PathLike) else None
        if isinstance(image, PhotoError):
            return Prediction(error=image, path=path)
        probabilities, novel, *evidence = next(answers)
        by_class = dict(zip(self.classes, probabilities.tolist(), strict=True))
        best = max(by_class, key=by_class.get)
        unknown = novel is not None and bool(novelty.is_unknown(novel, self.unknown_at))
        novel = None if novel is None else float(novel)
        label = None if unknown else best
        return Prediction(label, by_class[best], unknown, novel, by_class, None, path, *evidence)

    def outputs_of(
        self, dataset, members: np.ndarray, on_progress: Progress = lambda done, total: None
    ) -> Outputs:
        """Return `outputs`, without the evidence, of photos of a dataset, in order.

        Args:
            dataset: a `data.Dataset`.
            members: `(m,)` indices of its photos.
            on_progress: called with the number of photos that are done and of all.
        """
        return over(self.outputs, dataset, members, on_progress)


def _plain(source):
    """Return an array of any library as one of NumPy, what holds bytes as bytes, the rest as is."""
    if isinstance(source, str):  # np.str_ is an array and a buffer, too
        return source
    if hasattr(source, "__array__"):
        return np.asarray(source)
    try:
        return bytes(memoryview(source))
    except TypeError:
        return source


def _is_one(photos) -> bool:
    """Return whether this is one photo, and not several. What is neither is refused as one."""
    if isinstance(photos, np.ndarray):
        return photos.dtype.kind not in "OTU" and photos.ndim < 4
    one = isinstance(photos, str | bytes) or hasattr(photos, "read")
    return one or not isinstance(photos, Iterable)


def read(source: Photo, size: int) -> np.ndarray:
    """Return a photo as the network takes it, uint8 `(size, size, 3)`, or raise PhotoError."""
    source = _plain(source)
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        raise PhotoError("addresses are not read: download the photo")
    if isinstance(source, np.ndarray):
        kinds = source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (1, 3, 4))
        if source.dtype != np.uint8 or not kinds or not source.size:
            raise PhotoError(
                "expected an array of uint8, (height, width) or (height, width, 1, 3 or 4), got "
                f"{source.dtype} {source.shape}"
            )
        grey = source.ndim == 3 and source.shape[2] == 1
        source = Image.fromarray(np.ascontiguousarray(source[..., 0] if grey else source))
    if isinstance(source, Image.Image):
        return photo.load_image(source, size)
    if hasattr(source, "read"):
        source = _plain(source.read())
        if isinstance(source, str):
            raise PhotoError("expected a file opened as rb, got text")
    if not isinstance(source, str | os.PathLike | bytes):
        raise PhotoError(f"expected a photo, got {type(source).__name__}")
    return photo.load_photo(source, size)


def over(
    compute: Callable[[np.ndarray], Outputs],
    dataset,
    members: np.ndarray,
    on_progress: Progress = lambda done, total: None,
) -> Outputs:
    """Return what `compute` returns of photos of a dataset, without the evidence, in order."""
    found, done = {}, 0
    for batch in dataset.batches(members):
        for name, value in compute(batch).items():
            if name != "evidence":
                found.setdefault(name, []).append(value)
        done += len(batch)
        on_progress(done, len(members))
    return {name: np.concatenate(values) for name, values in found.items()}


def with_keras(network: keras.Model) -> Callable[[np.ndarray], Outputs]:
    """Return a function that runs a `keras.Model` on photos, one thread at a time."""
    lock = threading.Lock()

    def compute(photos):
        with lock:
            outputs = network.predict_on_batch(np.asarray(photos, np.float32))
        return {name: np.asarray(value) for name, value in outputs.items()}

    return compute


def _with_answer(compute, run):
    """Return a function that answers with a network of an earlier release, of logits only."""

    def answering(photos):
        outputs = {name: value for name, value in compute(photos).items() if name != "features"}
        if run.settings.mirror:
            mirrored = compute(photos[:, :, ::-1])
            if "evidence" in mirrored:
                mirrored["evidence"] = mirrored["evidence"][:, :, ::-1]
            outputs = {name: (value + mirrored[name]) / 2 for name, value in outputs.items()}
        temperature, logits = run.config.get("temperature", 1.0), outputs.pop("logits")
        outputs["probabilities"] = calibration.probabilities_from_logits(logits, temperature)
        return outputs

    return answering


class LiteRT:
    """A `.tflite` file as a function of photos, on all cores.

    The interpreter holds the tensors of one batch, so threads take turns: four threads that share
    it compute 240 photos/s on two cores, and 195 with an interpreter each, in 120 and 340 MB. A
    child of `fork` opens the file again, as the threads of the interpreter are not copied.

    Args:
        config: of the run.
    Raises:
        FileNotFoundError: no such file.
        ImportError: the package ai-edge-litert is missing.
        UserError: not a file that goes with `config`.
    """

    def __init__(self, path: Path, config: dict):
        self.path, self.config = path, config
        self._opened = {os.getpid(): (threading.Lock(), [_signature_runner(path, config)])}

    def __call__(self, photos: np.ndarray) -> Outputs:
        # `setdefault` is atomic. Of the parent process not even the lock is of use.
        lock, runners = self._opened.setdefault(os.getpid(), (threading.Lock(), []))
        parts = []
        for start in range(0, max(len(photos), 1), LITERT_BATCH):
            with lock, files.reading(self.path):
                if not runners:
                    runners.append(_signature_runner(self.path, self.config))
                batch = np.asarray(photos[start : start + LITERT_BATCH], np.float32)
                parts.append(runners[0](photos=batch))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _signature_runner(path, config):
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{path} is not there")
    with quiet():  # it prints a line for every delegate that it makes
        from ai_edge_litert.interpreter import Interpreter

        with files.reading(path):
            files.check_readable(path)
            # Not its path, which LiteRT takes for UTF-8.
            content = path.read_bytes()
            interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
            safe_load.check_litert_network(
                interpreter, len(content), config["score_size"], len(config["classes"])
            )
            interpreter.allocate_tensors()
            return interpreter.get_signature_runner()
