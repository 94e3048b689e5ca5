"""Sharpness-aware minimization (SAM): Foret et al. 2021, https://arxiv.org/abs/2010.01412."""

from __future__ import annotations

from catdog.backend import keras, tf
from catdog.errors import UserError


class SharpnessAware(keras.Model):
    """A network that is trained towards weights around which the loss is low.

    Every step first moves the weights by `radius` (Euclidean length) in the direction in which the
    loss of the batch rises the most. The gradient is computed there and applied to the weights from
    before. This takes twice as long as an ordinary step.
    """

    radius: float

    def train_step(self, batch):
        photos, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)

        def loss_and_gradients():
            with tf.GradientTape() as tape:
                predictions = self(photos, training=True)
                loss = self.compute_loss(photos, targets, predictions, weights)
                scaled = self.optimizer.scale_loss(loss)  # in float16
            return loss, predictions, tape.gradient(scaled, variables)

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


def aware(network: keras.Model, radius: float) -> keras.Model:
    """Return a network of the same layers that is trained with SAM.

    Raises:
        UserError: not TensorFlow on one device.
    """
    if keras.backend.backend() != "tensorflow" or tf.distribute.has_strategy():
        raise UserError("expected the backend TensorFlow and one device for a recipe with SAM")
    aware_network = SharpnessAware(network.input, network.output, name=network.name)
    aware_network.radius = radius
    return aware_network
