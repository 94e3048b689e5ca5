"""What training prints: what is trained, a bar for the running epoch, one line per epoch."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable

from tqdm import tqdm

from catdog.backend import keras
from catdog.cli import say
from catdog.files import printable, some_names
from catdog.training import devices
from catdog.training.settings import Settings

ONE_LABEL = """\
Warning: for 2 epochs the network has predicted the same class for every validation photo.
         If this continues, try a lower --lr or more --epochs. Run python data.py to check
         the labels and the number of photos per class."""
UNEVEN = 2  # times as many photos of one class as of another


def description(settings: Settings, dataset, parameters: int, remedy: str) -> str:
    """Return lines about what is trained, and on which devices.

    Args:
        dataset: the `data.Dataset` to train on.
        parameters: the number of parameters of the network.
        remedy: what to do if some classes have far more photos than others.
    """
    device, *more = devices.devices()
    sizes = " > ".join(f"{size}" for size in dict.fromkeys(settings.image_sizes()))
    start = f", starting from {printable(settings.init)}" if settings.init else ""
    lines = [
        f"Device   {device}, {settings.precision}"
        + (f", and {len(more)} more of the same kind" if more else "")
        + (f", on {devices.processes()} machines" if devices.processes() > 1 else "")
    ]
    if device.startswith("cpu"):
        lines.append(f"         {_faster_than_this_cpu()}")
    lines += [
        "Photos   " + ", ".join(f"{name} {n:,}" for name, n in dataset.split_sizes().items()),
        f"         skipped {len(dataset.skipped)}, left out {len(dataset.excluded)}; "
        f"{dataset.summary}",
    ]
    counts = dataset.class_counts("train")
    if counts.max() > UNEVEN * counts.min():
        order = counts.argsort(kind="stable")
        shown = some_names([f"{dataset.classes[i]} {counts[i]:,}" for i in order])
        done = "weighted" if settings.class_weight else remedy
        lines.append(f"Uneven   {shown} training photos: {done}")
    lines += [
        f"Network  {settings.arch}, {parameters:,} parameters{start}",
        f"Recipe   {settings.recipe}, {settings.epochs} epochs at {sizes} px, "
        f"scored at {settings.score_size} px",
    ]
    return "\n".join(lines)


def _faster_than_this_cpu() -> str:
    """Return what is faster than training on the CPU with this backend."""
    if other := devices.backend_with_a_gpu():
        return f"There is a GPU: KERAS_BACKEND={other} python train.py uses it."
    if keras.backend.backend() == "jax":
        return "On a CPU, JAX is about ten times slower than TensorFlow."
    return "A GPU is many times faster: see docs/devices.md."


class Progress(keras.callbacks.Callback):
    """Show a bar if stderr is a terminal; call `on_rate` once with the seconds per step.

    With JAX, Keras calls it in a thread of its own when a step is done, not when it is sent.
    """

    async_safe = True  # or Keras would wait for each step before it sends the next
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


def history_row(
    epoch: int, logs: dict, scores: dict, network: keras.Model, settings: Settings, started: float
) -> dict[str, float]:
    """Return the row of `history.csv` for an epoch.

    Args:
        epoch: counted from 0.
        logs: the history of Keras's `fit`.
        scores: what Keras's `evaluate` returns.
        started: `time.perf_counter()` at the start of the epoch.
    """
    return {
        "epoch": epoch + 1,
        "loss": logs["loss"][0],
        "accuracy": logs["accuracy"][0],
        "val_loss": scores["cross_entropy"],
        "val_accuracy": scores["accuracy"],
        "learning_rate": float(network.optimizer.learning_rate),
        "image_size": settings.image_sizes()[epoch],
        "seconds": round(time.perf_counter() - started, 2),
    }


def epoch_line(row: dict, settings: Settings) -> str:
    """Return one line about a row of `history.csv`, of 80 characters on a narrow terminal."""
    left = row["seconds"] * _pixels(settings, row["epoch"]) / row["image_size"] ** 2
    wide = shutil.get_terminal_size((120, 24)).columns >= 112
    accuracy = f"accuracy {row['accuracy']:.4f}  " if wide else ""
    seconds = f"  {row['seconds']:6.1f} s" if wide else ""
    return (
        f"epoch {row['epoch']:3d}/{settings.epochs}  {row['image_size']:3d} px  "
        f"loss {row['loss']:.4f}  {accuracy}val_loss {row['val_loss']:.4f}  "
        f"val_acc{'uracy' if wide else ''} {row['val_accuracy']:.4f}{seconds}  left {clock(left)}"
    )


def report_epoch(
    row: dict[str, float], scores: dict[str, float], settings: Settings, one_label: list[bool]
) -> None:
    """Print one line about an epoch, and a warning if the network predicts a single class.

    Args:
        row: of `history.csv`.
        scores: of the validation photos.
        one_label: for each earlier epoch, whether a single class was predicted. The value of this
            epoch is appended.
    """
    one_label.append(scores["largest_share"] == 1 and scores["accuracy"] < 1)
    say(epoch_line(row, settings))
    if one_label[-2:] == [True, True] and one_label[-3:-2] != [True]:
        say(ONE_LABEL)


def resuming(done: int, settings: Settings) -> str:
    """Return what a resumed run prints first; `done` is the number of epochs in its checkpoint."""
    if done == settings.epochs:
        return f"All {done} epochs are done. Continuing with the evaluation."
    return f"Resuming at epoch {done + 1} of {settings.epochs}"


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
