"""How far training is, on stderr: a bar for the running epoch, and early how long it will take."""

import datetime
import shutil
import time
from collections.abc import Callable

from tqdm import tqdm

from catdog.backend import keras
from catdog.training.recipe import Settings


class Progress(keras.callbacks.Callback):
    """Shows a bar, if stderr is a terminal, and tells the seconds per step of the first epoch.

    Args:
        on_rate: called once, with the seconds per step after the first steps (or None).
    """

    WARM, MEASURED = 5, 15  # steps that are slower than the others; steps that are timed

    def __init__(self, on_rate: Callable[[float], None] | None = None):
        super().__init__()
        self.on_rate = on_rate

    def on_epoch_begin(self, epoch, logs=None):
        self.bar = tqdm(
            total=self.params["steps"],
            desc=f"epoch {epoch + 1}",
            unit=" steps",
            disable=None,
            leave=False,
        )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if not self.bar.disable and batch % 10 == 0:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)
        if self.on_rate and batch + 1 == self.WARM:
            self.started = time.perf_counter()
        elif self.on_rate and batch + 1 == self.WARM + self.MEASURED:
            self.on_rate((time.perf_counter() - self.started) / self.MEASURED)
            self.on_rate = None

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()


def epoch_line(row: dict, settings: Settings) -> str:
    """Return one line about an epoch and the time left, of 80 characters if there is no more room.

    Args:
        row: a row of `history.csv`.
    """
    left = row["seconds"] * _pixels(settings, row["epoch"]) / row["image_size"] ** 2
    wide = shutil.get_terminal_size((120, 24)).columns >= 112
    accuracy = f"accuracy {row['accuracy']:.4f}  " if wide else ""
    seconds = f"  {row['seconds']:6.1f} s" if wide else ""
    return (
        f"epoch {row['epoch']:3d}/{settings.epochs}  {row['image_size']:3d} px  "
        f"loss {row['loss']:.4f}  {accuracy}val_loss {row['val_loss']:.4f}  "
        f"val_acc{'uracy' if wide else ''} {row['val_accuracy']:.4f}{seconds}  left {clock(left)}"
    )


def going_on(done: int, settings: Settings) -> str:
    """Return what a resumed run says first, with `done` epochs."""
    if done == settings.epochs:
        return f"All {done} epochs are done; going on with the scores"
    return f"Going on at epoch {done + 1} of {settings.epochs}"


def estimate(seconds: float, epoch: int, settings: Settings) -> str:
    """Return about how long a run will take, from the `seconds` of its next epoch (from 0)."""
    total = seconds * _pixels(settings, epoch) / settings.image_sizes()[epoch] ** 2
    minutes = round(total / 60)
    if minutes < 2:
        return f"About {round(total, -1):.0f} seconds of training on this machine"
    hours = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} minutes"
    return f"About {hours} of training on this machine"


def _pixels(settings: Settings, epoch: int) -> int:
    """Return the pixels of one photo in all epochs from `epoch`, from 0; time goes by pixels."""
    return sum(size**2 for size in settings.image_sizes()[epoch:])


def clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
