"""What training watches: numbers that are not finite, and a network that knows one class only."""

import keras
import numpy as np

from catdog.cli import say
from catdog.errors import UserError

LIKELY_CAUSES = """\
Likely causes: a learning rate that is too high (--lr, here {lr:g}); a batch of very few photos
(--batch-size, here {batch_size}). --resume would take the same steps again: start a new run."""


class FiniteLoss(keras.callbacks.Callback):
    """Stops training at the first step whose loss is not finite.

    Keras's own `TerminateOnNaN` only stops: the run would go on to save and score that network.
    """

    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # Keras hands on the mean of the epoch so far, as a number: once not finite, ever so.
        if not np.isfinite(logs["loss"]):
            raise UserError(
                f"training: expected a finite loss, got {logs['loss']} in epoch {self.epoch + 1} "
                f"at step {batch + 1} of {self.params['steps']}\n{causes(self.settings)}")


def check_finite(arrays, epoch, settings):
    """Raises `UserError` where a weight is not finite at the end of an epoch, counted from 0.

    arrays: all that a checkpoint holds, so that the last good one stays.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise UserError(f"training: expected finite weights after epoch {epoch + 1}, got nan or inf"
                        f"\n{causes(settings)}")


def causes(settings):
    return LIKELY_CAUSES.format(lr=settings.lr, batch_size=settings.batch_size)


class LargestShare(keras.metrics.Metric):
    """The share of the most frequently predicted class, 0 to 1; 1 where it is the only one."""

    def __init__(self, classes, name="largest_share"):
        super().__init__(name=name)
        self.counts = self.add_variable((classes,), initializer="zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """y_pred: logits, (batch, 1) for two classes, (batch, classes) beyond."""
        if y_pred.shape[-1] == 1:
            predicted = keras.ops.cast(y_pred[:, 0] > 0, "int32")
        else:
            predicted = keras.ops.argmax(y_pred, axis=-1)
        classes = self.counts.shape[0]
        self.counts.assign_add(keras.ops.sum(keras.ops.one_hot(predicted, classes), axis=0))

    def result(self):
        return keras.ops.max(self.counts) / keras.ops.maximum(keras.ops.sum(self.counts), 1)


class OneClassWarning:
    """Says what to try when every validation photo gets the same label for whole epochs."""

    EPOCHS = 2  # in a row

    def __init__(self):
        self.epochs = 0

    def see(self, share, accuracy):
        """share: of the most frequently predicted class; accuracy: 1 where that is all there is."""
        self.epochs = self.epochs + 1 if share == 1 and accuracy < 1 else 0
        if self.epochs == self.EPOCHS:
            say(f"Careful: for {self.EPOCHS} epochs the network has given every validation photo "
                "the same label.\n         If that goes on, try a lower --lr or more --epochs, and "
                "look with python data.py\n         whether the labels are right and one class "
                "has far fewer photos than another.")
