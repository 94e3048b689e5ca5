"""The graph that answers: a trained network, and after it a layer of constants that were fitted.

    photos         (n, size, size, 3), RGB, 0 to 255
    probabilities  (n, classes), calibrated, of photo and mirror image averaged
    novelty        (n,), 0 to 1, how unlike the training photos a photo is; see novelty.py
    evidence       (n, height, width, outputs), the logits of every position of the last feature map

`model.keras` holds this graph, and every format is made from it: none has arithmetic of its own.
Importing this module loads Keras.
"""

from collections.abc import Callable

import numpy as np

from catdog import files
from catdog.backend import keras, layers
from catdog.runs import novelty, safe_load
from catdog.runs.run import Run

ops = keras.ops


class Answer(keras.layers.Layer):
    """The last layer: from logits and features to probabilities and novelty.

    Args:
        photos: how many training photos it compares with; 0 for an answer without novelty.
        scores: how many scores of validation photos.
    """

    def __init__(self, photos: int = 0, scores: int = 0, **options):
        super().__init__(**{"name": "answer", "trainable": False, **options})
        self.photos, self.scores = photos, scores

    def build(self, logits_shape, features_shape=None):
        shapes = {"temperature": (1,)}
        if self.photos:
            width = features_shape[-1] // 2
            shapes["directions"] = (width, self.photos)  # of length 1, one per column
            shapes |= {"mean": (2,), "deviation": (2,)}  # of distance and weakness
            shapes |= {"reached": (self.scores,), "steps": (self.scores,), "highest": (1,)}
        for name, shape in shapes.items():
            start = "ones" if name in ("temperature", "deviation") else "zeros"
            weight = self.add_weight(name=name, shape=shape, initializer=start, trainable=False)
            setattr(self, name, weight)

    def set(self, **values: np.ndarray) -> None:
        """Give weights their numbers, by name."""
        for name, value in values.items():
            getattr(self, name).assign(np.asarray(value, np.float32))

    def call(self, logits, features=None, fitting=False):
        """Return the answer, or, for `fitting`, what its constants are fitted to."""
        outputs = {"logits": logits} if fitting else {"probabilities": self._probabilities(logits)}
        if self.photos:
            inner, last = ops.split(features, 2, axis=-1)
            cosine = ops.matmul(inner / _length(inner), self.directions)  # (n, photos)
            distance = 1 - ops.max(cosine, axis=-1, keepdims=True)
            parts = ops.concatenate([distance, -ops.log(_length(last))], axis=-1)  # (n, 2)
            outputs |= {"parts": parts} if fitting else {"novelty": self._novelty(parts)}
        return outputs

    def _probabilities(self, logits):
        if logits.shape[-1] == 1:  # of class 1; that of class 0 is 0
            logits = ops.concatenate([0 * logits, logits], axis=-1)
        return ops.softmax(logits / self.temperature)

    def _novelty(self, parts):
        parts = ops.maximum((parts - self.mean) / self.deviation, novelty.MOST_FAMILIAR)
        score = ops.sum(parts, axis=-1, keepdims=True)
        as_high = ops.cast(self.reached >= score, "float32")  # (n, scores)
        # Not a look-up by their number: LiteRT would store that table in eight bits.
        novel = self.highest + ops.sum(as_high * self.steps, axis=-1)
        return ops.maximum(novel, 0.0)  # it may end at -1e-7

    def get_config(self):
        return {**super().get_config(), "photos": self.photos, "scores": self.scores}


def _length(vectors):
    return ops.maximum(ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True)), novelty.TINY)


class Graph:
    """The graph around a network.

    Args:
        network: as a function of model.py builds it.
        score_size: height and width of the photos in pixels.
        mirror: average over each photo and its mirror image.
        photos, scores: as for `Answer`; 0 for a network without features.
    Attributes:
        network: that network.
        features: a `keras.Model` of what the network computes: `logits`, and if pooling and an
            output layer come last, `evidence` and `features`.
        fitting: of what the answer is fitted to: `logits` and, with photos, `parts`, distance and
            weakness of novelty.py.
        answering: of the answer.
        answer: the last layer.
    """

    def __init__(
        self,
        network: keras.Model,
        score_size: int,
        mirror: bool = True,
        photos: int = 0,
        scores: int = 0,
    ):
        self.network = network
        inputs = keras.Input((score_size, score_size, 3), name="photos")
        views = ops.concatenate([inputs, ops.flip(inputs, axis=2)], axis=0) if mirror else inputs
        found = outputs(network, views)
        if mirror:
            found = {name: _mean(name, values) for name, values in found.items()}
        self.features = keras.Model(inputs, found)
        self.answer = Answer(photos, scores)
        given = [found["logits"], found.get("features")][: 2 if photos else 1]
        self.fitting = keras.Model(inputs, self.answer(*given, fitting=True))
        evidence = {name: found[name] for name in ("evidence",) if name in found}
        self.answering = keras.Model(inputs, {**self.answer(*given), **evidence})


def load(run: Run, network_of: Callable[[int | None], keras.Model], size: int | None) -> Graph:
    """Load the graph of a run, its numbers from the `.keras` file.

    Args:
        network_of: builds its network for an image size; for any size if that is None.
        size: the one image size that the network takes, or None.
    """
    config, path = run.config, run.network_file(".keras")
    with files.reading(path):
        files.check_readable(path)
        if size:
            safe_load.check_large_enough(path, network_of, size)
    given = network_of(size), config["score_size"], run.settings.mirror
    graph = Graph(*given, **config.get("answer", {}))
    if "answer" in config:
        safe_load.load_weights(graph.answering, path)
    else:  # a run of an earlier release, or one whose training just ended
        safe_load.load_weights(graph.network, path)
        graph.answer.set(temperature=[config.get("temperature", 1.0)])
    return graph


def outputs(network: keras.Model, photos) -> dict:
    """Return what a trained network computes of photos, a dict:

    logits: (batch, 1), of class 1 of two classes, or (batch, classes).
    evidence: (batch, height, width, 1 or classes), the logits of every position of the last feature
        map. Their mean is `logits`: pooling and the output layer are linear, so that their order
        may be reversed. Without these two layers at the end there are only logits.
    features: (batch, 2 * channels), see catdog/runs/novelty.py.
    """
    *_, pooling, dense = (x for x in network.layers if not isinstance(x, layers.Dropout))
    if not (isinstance(pooling, layers.GlobalAveragePooling2D) and isinstance(dense, layers.Dense)):
        return {"logits": network(photos)}
    maps = keras.Model(network.inputs, [_inner_map(network), pooling.input], name="maps")
    inner, last = maps(photos)
    evidence = dense(last)
    found = {"logits": pooling(evidence), "evidence": evidence}
    if inner.shape[-1] == last.shape[-1]:
        inner = ops.sqrt(ops.mean(ops.square(inner), axis=(1, 2)))
        last = ops.max(last, axis=(1, 2))
        found["features"] = ops.concatenate([inner, last], axis=-1)  # (batch, 2 * channels)
    return found


def _inner_map(network):
    """Return the first feature map after the last max-pooling: `plain`'s eighth convolution."""
    after = network.layers
    for number, layer in enumerate(network.layers):
        if isinstance(layer, layers.MaxPooling2D):
            after = network.layers[number + 1 :]
    return next(layer.output for layer in after if isinstance(layer, layers.ReLU))


def _mean(name, values):
    """Return the mean of the photos, the first half, and their mirror images, the second."""
    values = ops.reshape(values, (2, -1, *values.shape[1:]))
    straight, mirrored = values[0], values[1]
    return (straight + (ops.flip(mirrored, axis=2) if name == "evidence" else mirrored)) / 2
