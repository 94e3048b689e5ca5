"""The best network in a given time: which image size, and how many epochs, fit into it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from catdog.backend import keras
from catdog.training import normalization, optimizer
from catdog.training.recipe import MILD, THREE_STAGES, Settings

# Epochs from which on a larger image size pays; the recipes `fast` and `full` are two of the rows.
WORTHWHILE = {160: 48, 128: 28, 96: 16, 80: 9, 64: 5, 48: 1}
STRONG = 20  # epochs from which on the strong augmentation of `full` pays
MOST_EPOCHS = 300
MEASURED_SIZES, MEASURED_STEPS = (48, 96), 6  # px, steps; a step takes a + b * px**2 seconds
EXPORT = 20  # seconds for model.tflite and the report of a finished run
SPARE = 0.93  # share of the time that is planned for; other programs slow a machine down


def measure(build: Callable[[], keras.Model], settings: Settings, classes: int) -> np.ndarray:
    """Return (a, b): a training step at `px` pixels takes about a + b * px**2 seconds here."""
    keras.config.set_dtype_policy(settings.precision)
    try:
        network = normalization.fuse(build())
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer.compile(network, settings, classes, steps_per_epoch=1000)
    targets = np.zeros((settings.batch_size, *network.output_shape[1:]), np.float32)
    seconds = []
    for size in MEASURED_SIZES:
        images = np.zeros((settings.batch_size, size, size, 3), np.float32)
        network.train_on_batch(images, targets)  # traced and compiled
        started = time.perf_counter()
        for _ in range(MEASURED_STEPS):
            network.train_on_batch(images, targets)
        seconds.append((time.perf_counter() - started) / MEASURED_STEPS)
    b, a = np.polyfit(np.square(MEASURED_SIZES), seconds, 1)
    return np.array([max(a, 0), max(b, 1e-9)])


def choose(
    settings: Settings, rate: np.ndarray, photos: dict[str, int], seconds: float
) -> Settings:
    """Return settings whose run ends within the given number of seconds.

    The largest image size is chosen for which enough epochs fit to be worthwhile, then as many
    epochs as fit.

    Args:
        rate: as `measure` returns it; photos: the number of photos of each split.
        seconds: for training, export and scoring.
    """
    for size, worthwhile in WORTHWHILE.items():
        chosen = dataclasses.replace(settings, image_size=size, stages=THREE_STAGES)
        epochs = fitting_epochs(chosen, rate, photos, seconds)
        if epochs >= worthwhile:
            break
    if epochs < STRONG:
        chosen = dataclasses.replace(chosen, **MILD)
    return dataclasses.replace(chosen, epochs=max(1, epochs))


def fitting_epochs(
    settings: Settings, rate: np.ndarray, photos: dict[str, int], seconds: float
) -> int:
    """Return the largest number of epochs, up to `MOST_EPOCHS`, of a run of `seconds`."""
    runs = (dataclasses.replace(settings, epochs=i + 1) for i in range(MOST_EPOCHS))
    fitting = (run.epochs for run in runs if duration(run, rate, photos) <= SPARE * seconds)
    return max(fitting, default=0)


def duration(settings: Settings, rate: np.ndarray, photos: dict[str, int]) -> float:
    """Return about how many seconds a run takes, from its first step to its printed score."""
    a, b = rate
    steps = max(1, photos["train"] // settings.batch_size)
    sizes = np.array(settings.image_sizes())
    training = (steps * (a + b * sizes**2)).sum()
    # Scoring a photo takes a third of a training step's time: no gradients, no optimizer.
    scored = np.array([settings.score_size_after(size) for size in sizes.tolist()])
    validation = (photos["validation"] / settings.batch_size * b * scored**2).sum() / 3
    held_out = 2 * (photos["validation"] + photos["test"])  # each with its mirror image
    checked = 4 * min(photos["validation"], 2000)  # model.tflite against Keras, novelty
    final = (held_out + checked) / settings.batch_size * b * settings.score_size**2 / 3
    return training + validation + final + EXPORT
