"""The best network in a given time: which image size, and how many epochs, fit into it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable

import numpy as np

from catdog.cli import say
from catdog.training.recipe import MILD, THREE_STAGES
from catdog.training.settings import Settings

# Epochs from which on a larger image size pays; `full` is the first row.
WORTHWHILE = {160: 48, 128: 28, 96: 16, 80: 9, 64: 5, 48: 1}
STRONG = 20  # epochs from which on the strong augmentation of `full` pays
MOST_EPOCHS = 300
MEASURED_SIZES = (48, 96)  # px
LEAST_STEPS, LEAST_SECONDS = 6, 4  # of measuring: steps at each of these sizes, seconds in all
# Besides its steps, a run compiles, writes model.tflite and draws its curves. Measured on two
# cores, that takes as long as 5 first steps; 8 leave a margin.
FIRST_STEPS = 8
# Share of the time that is planned for, as other programs slow a machine down. With 0.85, a run of
# 3 minutes took 3.4 on a busy one, and a run of 1 minute took 1.0 on an idle one.
SPARE = 0.8


def within(
    minutes: float,
    started: float,
    settings: Settings,
    photos: dict[str, int],
    train_on_batch: Callable[[Settings], None],
) -> Settings:
    """Return the settings of the best run that ends the given number of minutes after `started`.

    Args:
        photos: the number of photos of each split.
        train_on_batch: takes one training step.
    """
    say("Measuring how fast this machine trains")
    sized = functools.partial(dataclasses.replace, settings, stages=(1.0,))
    rate = measure(lambda size: train_on_batch(sized(image_size=size)))
    return choose(settings, rate, photos, 60 * minutes - (time.perf_counter() - started))


def measure(step: Callable[[int], None]) -> np.ndarray:
    """Return how fast this machine trains, with whatever else it is doing now.

    Args:
        step: takes one training step at the given image size in pixels.
    Returns:
        (first, a, b): the first step takes about `first` seconds, as it is compiled, and each of
        the others at `px` pixels about a + b * px**2.
    """

    def seconds(size):
        started = time.perf_counter()
        step(size)
        return time.perf_counter() - started

    first = np.mean([seconds(size) for size in MEASURED_SIZES])
    turns = []  # the sizes alternate, so that other programs slow both alike
    while len(turns) < LEAST_STEPS or np.sum(turns) < LEAST_SECONDS:
        turns.append([seconds(size) for size in MEASURED_SIZES])
    b, a = np.polyfit(np.square(MEASURED_SIZES), np.mean(turns, axis=0), 1)
    return np.array([first, max(a, 0), max(b, 1e-9)])


def choose(
    settings: Settings, rate: np.ndarray, photos: dict[str, int], seconds: float
) -> Settings:
    """Return settings whose run ends within the given number of seconds.

    The largest image size is chosen for which enough epochs fit to be worthwhile, then as many
    epochs as fit.

    Args:
        rate: as `measure` returns it.
        photos: the number of photos of each split.
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
    """Return about how many seconds a run takes, from building its network to its score."""
    first, a, b = rate
    steps = max(1, photos["train"] // settings.batch_size)
    sizes = np.array(settings.image_sizes())
    training = (steps * (a + b * sizes**2)).sum()
    # Scoring a photo takes a third of a training step's time: no gradients, no optimizer.
    scored = np.array([settings.score_size_after(size) for size in sizes.tolist()])
    validation = (photos["validation"] / settings.batch_size * b * scored**2).sum() / 3
    held_out = 2 * (photos["validation"] + photos["test"])  # each with its mirror image
    checked = 4 * min(photos["validation"], 2000)  # model.tflite against Keras, novelty
    final = (held_out + checked) / settings.batch_size * b * settings.score_size**2 / 3
    return training + validation + final + FIRST_STEPS * first
