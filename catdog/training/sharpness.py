"""Sharpness-aware minimization (SAM): Foret et al. 2021, https://arxiv.org/abs/2010.01412."""

from __future__ import annotations

from catdog.backend import keras, tf
from catdog.errors import UserError
from catdog.training import devices


class SharpnessAware(keras.Model):
    """A network that is trained towards weights around which the loss is low.

    Every step first moves the weights by `radius` (Euclidean length) in the direction in which the
    loss of the batch rises the most. The gradient is computed there and applied to the weights from
    before. This takes twice as long as an ordinary step. The averages of batch normalization see
    both passes.
    """

    radius: float

    def train_step(self, batch):
        photos, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)

        def loss_and_gradients():
            with tf.GradientTape() as tape:
                predictions = self(photos, training=True)
                loss = self.compute_loss(photos, targets, predictions, weights)
            return loss, predictions, tape.gradient(loss, variables)

        variables = [variable.value for variable in self.trainable_variables]
        before = [tf.identity(variable) for variable in variables]
        _, _, uphill = loss_and_gradients()
        share = self.radius / (tf.linalg.global_norm(uphill) + 1e-12)
        for variable, gradient in zip(variables, uphill, strict=True):
            variable.assign_add(gradient * share)
        loss, predictions, gradients = loss_and_gradients()
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
        return self.compute_metrics(photos, targets, predictions, weights)


def check() -> None:
    """Raise UserError unless networks are trained with TensorFlow on one device."""
    backend, count = keras.backend.backend(), len(devices.devices())
    if backend != "tensorflow" or count > 1:
        raise UserError(
            "expected TensorFlow on one device for sharpness-aware minimization, got "
            f"{backend} on {count}"
        )


def aware(network: keras.Model, radius: float) -> keras.Model:
    """Return a network of the same layers that is trained with SAM; see `check`."""
    check()
    aware_network = SharpnessAware(network.input, network.output, name=network.name)
    aware_network.radius = radius
    return aware_network
