"""The running average of a network's weights, which is validated and kept."""

from __future__ import annotations

from catdog.backend import keras


class WeightAverage(keras.callbacks.Callback):
    """Keeps an exponential moving average of all weights.

    Keras's own `use_ema` averages the trainable weights alone; the batch-norm statistics that
    belong to them have to be averaged too. The average reaches back about one epoch, and its
    decay warms up as in TensorFlow's `ExponentialMovingAverage(num_updates)`, so that it serves
    short runs too.

    Attributes:
        weights: the average, a list of arrays as `network.get_weights()`.
        updates: how often it was updated.
    """

    EVERY = 4  # steps between updates

    def __init__(self, network: keras.Model, steps_per_epoch: int):
        super().__init__()
        self.set_model(network)
        self.every = max(1, min(self.EVERY, steps_per_epoch // 4))
        self.decay = 1 - self.every / max(steps_per_epoch, 2 * self.every)
        self.updates = 0
        self.weights = network.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            for average, weight in zip(self.weights, self.model.get_weights(), strict=True):
                average += (1 - decay) * (weight - average)
            self.updates += 1

    def evaluate(self, batches) -> dict[str, float]:
        """Return what Keras's `evaluate` says of the averaged weights on a `tf.data.Dataset`."""
        raw = self.model.get_weights()
        self.model.set_weights(self.weights)
        scores = self.model.evaluate(batches, steps=len(batches), verbose=0, return_dict=True)
        self.model.set_weights(raw)
        return scores
