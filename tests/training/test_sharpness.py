"""Sharpness-aware minimization: a step by hand, and where it cannot be had."""

import json

import numpy as np
import pytest

import sharp_step
import train
from catdog.backend import keras
from catdog.errors import UserError
from catdog.training import devices, sharpness
from catdog.training.recipe import RECIPES
from conftest import ROOT, run_here, run_script


def test_a_step_takes_the_gradient_from_uphill_of_the_weights():
    by_hand, by_keras = sharp_step.steps()
    np.testing.assert_allclose(by_keras, by_hand, rtol=1e-5)


@pytest.mark.slow
def test_a_step_of_jax_does_so_too():
    process = run_script(
        "tests/sharp_step.py", env={"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    )
    assert process.returncode == 0, process.stderr
    by_hand, by_keras = json.loads(process.stdout)
    np.testing.assert_allclose(by_keras, by_hand, rtol=1e-5)


def test_the_recipe_trains_with_it():
    network = train.build(RECIPES["sharp"], ["cat", "dog"], steps=4, fresh=False)
    assert isinstance(network, sharpness.WithTensorFlow)
    assert network.radius == RECIPES["sharp"].sharpness > 0
    ordinary = train.build(RECIPES["long"], ["cat", "dog"], steps=4, fresh=False)
    assert not isinstance(ordinary, sharpness.WithTensorFlow)


def test_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: ["gpu:0", "gpu:1"])
    message = r"expected TensorFlow or JAX on one device .*, got tensorflow on 2 devices"
    with pytest.raises(UserError, match=message):
        sharpness.check()


def test_another_backend_is_refused_before_photos_are_read(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    process = run_here(
        "train.py", "--recipe", "sharp", "--init", trained[0], "--data-dir", "nowhere", cwd=tmp_path
    )
    assert process.returncode == 2
    assert "--recipe: expected TensorFlow or JAX on one device" in process.stderr


@pytest.mark.slow
def test_a_run_starts_from_another_with_it(trained, photos_dir, tmp_path):
    process = run_here(
        "train.py", "--data-dir", photos_dir, "--cache-dir", tmp_path / "cache", "--recipe",
        "sharp", "--init", trained[0], "--epochs", "1", "--image-size", "48", "--output", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
