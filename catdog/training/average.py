"""Two networks in one model: the one that is trained, and the average of it, which is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from catdog.backend import keras


class AveragedNetwork(keras.Model):
    """Trains a network and keeps the running average of its weights.

    In training, the network sees augmented photos, and the average moves towards its weights.
    Otherwise the network runs with the averaged weights, on photos as they are. So Keras's `fit`
    trains the network, and its `evaluate` scores the average.

    Keras's own `use_ema` overwrites the weights with their average at the end of every `fit`, and
    leaves out the statistics of batch normalization, which have to be averaged too.

    Args:
        network: a functional `keras.Model` from images to logits.
        sample: `pixels.sample`, with its dtype.
        augment: `data.augment`, with its settings and dtype.
        steps_per_epoch: the average reaches back about one epoch. At first it reaches back a ninth
            of the steps so far, as TensorFlow's `ExponentialMovingAverage(num_updates)` does, so
            that it serves short runs too.
    """

    def __init__(
        self, network: keras.Model, sample: Callable, augment: Callable, steps_per_epoch: int
    ):
        super().__init__(name=network.name)
        self.network, self.sample, self.augment = network, sample, augment
        self.decay = 1 - 1 / max(steps_per_epoch, 2)
        self.noise = keras.random.SeedGenerator()  # seeded by `keras.utils.set_random_seed`
        self.updates = self._weight((), "updates", "zeros")
        self.average = [self._weight(w.shape, w.name, "zeros") for w in network.weights]
        self.start_average()

    def _weight(self, shape, name, initializer):
        return self.add_weight(
            shape, initializer, "float32", trainable=False, name=name, aggregation="mean"
        )

    def start_average(self) -> None:
        """Set the average to the weights of the network."""
        for average, weight in zip(self.average, self.network.weights, strict=True):
            average.assign(keras.ops.copy(weight))  # JAX donates both, and cannot donate one twice

    def get_state(self) -> list[np.ndarray]:
        """Return all that training changes: of the network, its average and its optimizer."""
        return [np.asarray(keras.ops.convert_to_numpy(each)) for each in self._state()]

    def set_state(self, arrays: Sequence[np.ndarray]) -> None:
        """Go on from what `get_state` returned; raise ValueError if the arrays do not fit."""
        for variable, array in zip(self._state(), arrays, strict=True):
            variable.assign(array)

    def _state(self):
        return [*self.variables, *self.optimizer.variables]

    def averaged_weights(self) -> list:
        """Return the average, as `network.get_weights()` returns the weights."""
        return [keras.ops.convert_to_numpy(average) for average in self.average]

    def call(self, inputs, training=False):
        """In training, update the average and run the network. Otherwise run the average."""
        if not training:
            return self._call_averaged(
                self.sample(inputs["photos"], inputs["rows"], inputs["columns"])
            )
        decay = keras.ops.minimum(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, weight in zip(self.average, self.network.weights, strict=True):
            average.assign(average + (1 - decay) * (weight - average))
        self.updates.assign(self.updates + 1)
        return self.network(self.augment(inputs, seed=self.noise), training=True)

    def _call_averaged(self, images):
        average = {id(w): a for w, a in zip(self.network.weights, self.average, strict=True)}
        trained, others = (
            [average.get(id(variable), variable).value for variable in variables]
            for variables in (
                self.network.trainable_variables,
                self.network.non_trainable_variables,
            )
        )
        logits, _ = self.network.stateless_call(trained, others, images, training=False)
        return logits
