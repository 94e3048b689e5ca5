"""What training prints: what is trained, a bar and a line per epoch, scores, what comes next."""

from __future__ import annotations

import argparse
import datetime
import math
import shutil
import time
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from catdog import cli, files
from catdog.backend import keras
from catdog.cli import say
from catdog.files import counted, quoted, some_names
from catdog.runs import novelty
from catdog.runs.run import Run
from catdog.scores import inspect, plots, tables
from catdog.training import devices
from catdog.training.settings import Settings

ONE_LABEL = """\
Warning: for 2 epochs the network has predicted the same class for every validation photo.
         If this continues, try a lower --lr or more --epochs. Run python data.py to check
         the labels and the number of photos per class."""
AT_CHANCE = """
On the validation photos, the network may be no better than always naming the most frequent class.
Train longer (--epochs), or check the labels with python data.py. If left and right tell the classes
apart, as with arrows, train with --no-mirror."""
DRAWINGS = """
These are drawings: the figure says nothing about photos, and this network knows
drawings only."""
REDRAW = 60  # seconds after which curves.png is drawn again
UNEVEN = 2  # times as many photos of one class as of another


def describe(run: Run, settings: Settings, dataset, parameters: int) -> None:
    """Print what is about to be trained, on what, on which devices, and where.

    Args:
        dataset: the `data.Dataset` to train on.
        parameters: the number of parameters of the network.
    """
    device, *more = devices.devices()
    sizes = " > ".join(f"{size}" for size in dict.fromkeys(settings.image_sizes()))
    start = f", starting from {settings.init}" if settings.init else ""
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
        *(f"skipped {path}: {reason}" for path, reason in dataset.skipped[:10]),
        *([f"skipped {more} more"] if (more := len(dataset.skipped) - 10) > 0 else []),
    ]
    counts = dataset.class_counts("train")
    if counts.max() > UNEVEN * counts.min():
        order = counts.argsort(kind="stable")
        shown = some_names([f"{dataset.classes[i]} {counts[i]:,}" for i in order])
        remedy = "--class-weight balanced compensates"
        done = "weighted" if settings.class_weight else remedy
        lines.append(f"Uneven   {shown} training photos: {done}")
    lines += [
        f"Network  {settings.arch}, {parameters:,} parameters{start}",
        f"Recipe   {settings.recipe}, {counted(settings.epochs, 'epoch')} at {sizes} px, "
        f"scored at {settings.score_size} px",
        f"Run      {run}",
        *inspect.warnings(dataset),
    ]
    say(*lines)
    if settings.init:
        say_if_seen(dataset, settings.init)
    if devices.processes() > 1:
        say(
            "If one process fails, the others stop within a minute. To continue, use --resume on "
            "each machine."
        )


def say_if_seen(dataset, init: str) -> None:
    """Warn if the run `init` was trained on some of the photos to be scored."""
    held_out = np.concatenate([dataset.splits["validation"], dataset.splits["test"]])
    seen = Run(init).trained_on(dataset.identities(held_out), renamed=True)
    if seen is not None and seen.any():
        say(
            f"Warning: {init} was trained on {seen.sum():,} of the validation and test "
            "photos: their scores will be too good."
        )


def _faster_than_this_cpu() -> str:
    """Return what is faster than training on the CPU with this backend."""
    if other := devices.backend_with_a_gpu():
        return f"There is a GPU: KERAS_BACKEND={other} python train.py uses it."
    if keras.backend.backend() == "jax":
        return "On a CPU, JAX is about ten times slower than TensorFlow."
    return "A GPU is many times faster: see docs/devices.md."


WARM, MEASURED = 5, 15  # steps that are slower than the others; steps that are timed


def bar(steps: int, settings: Settings, done: int) -> keras.callbacks.Callback:
    """Return a callback that shows a bar if stderr is a terminal, and says once how long it takes.

    With JAX, Keras calls it in a thread of its own when a step is done, not when it is sent.

    Args:
        steps: of an epoch.
        done: the number of epochs that a resumed run does not train again.
    """

    class Bar(keras.callbacks.Callback):  # here, as importing this file must not load Keras
        async_safe = True  # or Keras would wait for each step before it sends the next
        started = None

        def on_epoch_begin(self, epoch, logs=None):
            name = f"epoch {epoch + 1}"
            self.bar = tqdm(total=steps, desc=name, unit=" steps", disable=None, leave=False)

        def on_train_batch_end(self, batch, logs=None):
            if cli.stopped_by:  # and TensorFlow swallowed the exception
                raise KeyboardInterrupt
            self.bar.update()
            if not self.bar.disable and batch % 10 == 0:
                self.bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)
            if batch + 1 == WARM and self.started is None:
                self.started = time.perf_counter()
            elif batch + 1 == WARM + MEASURED and self.started:
                per_step = (time.perf_counter() - self.started) / MEASURED
                self.started = 0  # said once
                say(estimate(per_step * steps, done, settings))

        def on_epoch_end(self, epoch, logs=None):
            self.bar.close()

    return Bar()


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
        "val_largest_share": scores["largest_share"],  # of the class that is predicted most
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


def report_epoch(run: Run, settings: Settings, history: list[dict]) -> None:
    """Print one line about an epoch; warn if a network predicts a single class; draw the curves.

    Args:
        history: the rows of `history.csv` so far.
    """
    say(epoch_line(history[-1], settings))
    # While the learning rate rises, this is normal: in two of twelve epochs with 320 photos.
    risen = history[math.floor(settings.warmup * settings.epochs) :]
    one_class = [row["val_largest_share"] == 1 > row["val_accuracy"] for row in risen[-3:]]
    if one_class in ([True, True], [False, True, True]):  # said once
        say(*ONE_LABEL.splitlines())
    draw_curves(run, history)


def draw_curves(run: Run, history: list[dict]) -> None:
    """Draw `curves.png` of a run, but not before the last one is a minute old.

    Of 24 epochs it takes 0.4 to 0.5 s on one core, and the first one 0.8 s.
    """
    path = run.folder / "curves.png"
    if run.writes and (not path.exists() or files.age(path) > REDRAW):
        plots.plot_history(history, path)


def resuming(done: int, settings: Settings) -> str:
    """Return what a resumed run prints first; `done` is the number of epochs in its checkpoint."""
    if done == settings.epochs:
        return "Every epoch is done. Continuing with the evaluation."
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


# --- What comes next ------------------------------------------------------------------------------


def say_scores(run: Run, settings: Settings, metrics: dict) -> None:
    """Print the scores of a finished run, what is to be known about them, and what comes next.

    Args:
        metrics: as `metrics.json` keeps them.
    """
    say(
        *novelty.advice(run.novelty_photos),
        "",
        f"Trained for {clock(metrics['training_seconds'])}. On the test split, which training "
        "never saw:",
        "",
    )
    print(tables.format_score(metrics["test"]), flush=True)
    before = "calibration and mirror image" if settings.mirror else "calibration"
    of = metrics["validation"]
    say(
        "",
        f"Validation: accuracy {tables.percent(of['accuracy'])}, log loss "
        f"{tables.number(of['log_loss'])}. Each epoch was scored without {before}.",
    )
    if is_at_chance(metrics["validation"]):
        say(*AT_CHANCE.splitlines())
    if settings.recipe == "demo":
        say(*DRAWINGS.splitlines())
    say(
        "",
        f"Next:  {evaluate_command(run)}",
        f"       python predict.py --model {quoted(run)} photo.jpg",
    )


def is_at_chance(score: dict) -> bool:
    """Return whether an accuracy may be that of always naming the most frequent class."""
    counts = [sum(row) for row in score["confusion_matrix"]]
    return score["accuracy_low"] <= max(counts) / sum(counts)


def say_finished(run: Run, epochs: int | None) -> None:
    """Print of a run that is to be resumed, but is finished, what can be done with it."""
    flags = f"--init {quoted(run)} --epochs {epochs or 20}"
    settings, usual = run.settings, Settings()
    for name in ("arch", "fold"):
        if (value := getattr(settings, name)) != getattr(usual, name):
            flags += f" --{name} {value}"
    say(
        f"{run} is finished. Next:  {evaluate_command(run)}",
        f"To train it further, as a new run:  python train.py {flags} "
        f"--data-dir {quoted(run.place('data_dir'))}",
    )


def say_folds(runs: Iterable[Run], args: argparse.Namespace) -> None:
    """Print the command that scores all photos with the runs of all folds."""
    flags = "" if args.cache_dir == "tmp/cache" else f"--cache-dir {quoted(args.cache_dir)} "
    for name in ("exclude", "relabel"):
        if path := getattr(args, name):
            flags += f"--{name} {quoted(path)} "
    say(
        "",
        "All photos, each scored by a network that did not see it:",
        f"       python evaluate.py {flags}--pool --model {' '.join(map(quoted, runs))}",
    )


def say_stopped(run: Run) -> None:
    """Print how an interrupted run is continued."""
    if run.has_checkpoint():
        how = f"To continue:  {run.completed_by()}"
    else:
        how = "No epoch was completed. Run the same command again to start over."
    say("", f"Stopped. {how}")


def evaluate_command(run: Run) -> str:
    place = quoted(run.place("data_dir"))
    return f"python evaluate.py --model {quoted(run)} --data-dir {place}"
