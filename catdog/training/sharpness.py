"""Sharpness-aware minimization (SAM): Foret et al. 2021, https://arxiv.org/abs/2010.01412."""

from __future__ import annotations

from catdog.backend import keras, tf
from catdog.errors import UserError
from catdog.training import devices

# One in so many photos of a batch gives the uphill direction. With all of them, a step takes 1.98
# times as long as an ordinary one, with a quarter 1.27 times (docs/EXPERIMENTS.md).
ONE_IN = 4


def first_part(batch: tuple) -> list:
    """Return the first photos of a batch of (photos, targets, weights); weights may be None."""
    count = -(-keras.ops.shape(batch[0])[0] // ONE_IN)
    return [None if array is None else array[:count] for array in batch]


def uphill(variables: list, gradients: list, radius: float) -> list:
    """Return the variables moved by `radius` (Euclidean length of all) along their gradients."""
    length = keras.ops.sqrt(sum(keras.ops.sum(gradient**2) for gradient in gradients))
    share = radius / (length + 1e-12)  # gradients of zeros move nothing
    return [
        variable + gradient * share for variable, gradient in zip(variables, gradients, strict=True)
    ]


class WithTensorFlow(keras.Model):
    """A network that is trained towards weights around which the loss is low.

    Every step first moves the weights by `radius` (Euclidean length) in the direction in which the
    loss of a part of the batch rises the most. The gradient of the whole batch is computed there
    and applied to the weights from before. The averages of batch normalization see both passes.
    """

    radius: float

    def train_step(self, batch):
        def loss_and_gradients(photos, targets, weights):
            with tf.GradientTape() as tape:
                predictions = self(photos, training=True)
                loss = self.compute_loss(photos, targets, predictions, weights)
            return loss, predictions, tape.gradient(loss, variables)

        photos, targets, weights = batch = keras.utils.unpack_x_y_sample_weight(batch)
        variables = [variable.value for variable in self.trainable_variables]
        before = [tf.identity(variable) for variable in variables]
        _, _, gradients = loss_and_gradients(*first_part(batch))
        moved = uphill(variables, gradients, self.radius)
        for variable, value in zip(variables, moved, strict=True):
            variable.assign(value)
        loss, predictions, gradients = loss_and_gradients(*batch)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":  # which `compute_metrics` leaves out
                metric.update_state(loss)
        return self.compute_metrics(photos, targets, predictions, weights)


class WithJax(keras.Model):
    """The same on JAX, whose averages of batch normalization see the second pass alone.

    Keras's `train_step` differentiates and applies what this method returns. Only the weights at
    which it computes the loss are different.
    """

    radius: float

    def compute_loss_and_updates(
        self, trainable, fixed, metrics, photos, targets, weights, training=False, **rest
    ):
        import jax

        def loss_and_updates(variables, batch):
            return super(WithJax, self).compute_loss_and_updates(
                variables, fixed, metrics, *batch, training=training, **rest
            )

        batch = photos, targets, weights
        if training:
            # Held fixed, so that Keras's gradient is that of the second pass.
            start = jax.lax.stop_gradient(trainable)
            gradients, _ = jax.grad(loss_and_updates, has_aux=True)(start, first_part(batch))
            trainable = uphill(trainable, gradients, self.radius)
        return loss_and_updates(trainable, batch)


KINDS = {"tensorflow": WithTensorFlow, "jax": WithJax}


def check() -> None:
    """Raise UserError unless networks are trained with TensorFlow or JAX on one device."""
    backend, count = keras.backend.backend(), len(devices.devices())
    if backend not in KINDS or count > 1:
        raise UserError(
            "expected TensorFlow or JAX on one device for sharpness-aware minimization, got "
            f"{backend} on {count} device{'s' * (count != 1)}"
        )


def aware(network: keras.Model, radius: float) -> keras.Model:
    """Return a network of the same layers that is trained with SAM; see `check`."""
    check()
    kind = KINDS[keras.backend.backend()]
    aware_network = kind(network.input, network.output, name=network.name)
    aware_network.radius = radius
    return aware_network
