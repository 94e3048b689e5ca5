"""--minutes: what fits into a time.

MINUTES=3 python -m pytest -m timing tests/training/test_budget.py        in full
"""

import dataclasses
import os
import time

import numpy as np
import pytest

from catdog.training import budget
from catdog.training.recipe import RECIPES
from conftest import draw_photos, run_script

MINUTES = float(os.environ.get("MINUTES", 1))
RATE = np.array([2, 0.05, 2e-5])  # seconds of the first step, per step, and per square pixel
PHOTOS = {"train": 18_000, "validation": 2_250, "test": 2_250}


def test_more_time_gives_larger_images_and_more_epochs():
    minutes = (1, 5, 15, 60, 300, 1000)
    chosen = [budget.choose(RECIPES["full"], RATE, PHOTOS, 60 * n) for n in minutes]
    assert chosen[0].dropout == 0 < chosen[-1].dropout and chosen[0].erase == 0 < chosen[-1].erase
    sizes = [settings.image_size for settings in chosen]
    assert sizes == sorted(sizes) and sizes[0] == 48 and sizes[-1] == 160
    for settings, n in zip(chosen, minutes, strict=True):
        if settings.epochs > 1:
            assert budget.duration(settings, RATE, PHOTOS) <= 60 * n
        if 1 < settings.epochs < budget.MOST_EPOCHS:
            one_more = dataclasses.replace(settings, epochs=settings.epochs + 1)
            assert budget.duration(one_more, RATE, PHOTOS) > budget.SPARE * 60 * n


def test_a_time_that_is_too_short_for_anything_gives_one_epoch():
    assert budget.choose(RECIPES["full"], RATE, PHOTOS, -5).epochs == 1


def test_measured_steps_take_longer_for_larger_images(monkeypatch):
    clock, sizes = 0.0, []
    monkeypatch.setattr(budget.time, "perf_counter", lambda: clock)

    def step(size):
        nonlocal clock
        sizes.append(size)
        clock += 0.1 + 1e-4 * size**2 + 2 * (len(sizes) <= 2)  # the first step is compiled

    first, a, b = budget.measure(step)
    assert set(sizes) == set(budget.MEASURED_SIZES) and sum(sizes[2:]) > 0
    assert len(sizes) >= 2 * (1 + budget.LEAST_STEPS) and clock - 2 * first >= budget.LEAST_SECONDS
    np.testing.assert_allclose([a, b], [0.1, 1e-4], rtol=1e-6)
    assert first == pytest.approx(2.1 + 1e-4 * np.mean(np.square(budget.MEASURED_SIZES)))


@pytest.mark.timing  # beside other programs, it took 1.15 to 1.57 minutes of 1
def test_a_run_ends_within_its_minutes_and_makes_use_of_them(tmp_path):
    draw_photos(tmp_path / "photos" / "train", 200)
    started = time.monotonic()
    process = run_script(
        "train.py", "--data-dir", "photos", "--cache-dir", "cache", "--minutes", MINUTES,
        "--output", "run", cwd=tmp_path, timeout=120 * MINUTES,
    )  # fmt: skip
    minutes = (time.monotonic() - started) / 60
    assert process.returncode == 0, process.stderr
    print(process.stderr)
    print(f"{minutes:.2f} of {MINUTES:g} minutes")
    assert 2 / 3 * MINUTES <= minutes <= 1.1 * MINUTES
