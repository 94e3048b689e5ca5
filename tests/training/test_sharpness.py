"""Sharpness-aware minimization: a step by hand, and where it cannot be had."""

import numpy as np
import pytest

import train
from catdog.backend import keras, layers
from catdog.errors import UserError
from catdog.training import devices, sharpness
from catdog.training.recipe import RECIPES
from conftest import run_here

RADIUS, RATE = 0.3, 0.1


def test_a_step_takes_the_gradient_from_uphill_of_the_weights():
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(8, 3)), rng.normal(size=(8, 1)), rng.normal(size=(3, 1))
    inputs = keras.Input((3,))
    network = keras.Model(inputs, layers.Dense(1, use_bias=False)(inputs))
    network.set_weights([weights])
    network = sharpness.aware(network, RADIUS)
    network.compile(keras.optimizers.SGD(RATE), "mse", metrics=["mae"])

    def gradient(at):
        return 2 * x.T @ (x @ at - y) / len(x)

    uphill = weights + RADIUS * gradient(weights) / np.linalg.norm(gradient(weights))
    logs = network.fit(x, y, batch_size=8, verbose=0).history
    expected = weights - RATE * gradient(uphill)
    np.testing.assert_allclose(network.get_weights()[0], expected, rtol=1e-5)
    assert logs["loss"][0] == pytest.approx(np.mean((x @ uphill - y) ** 2), rel=1e-5)
    assert logs["mae"][0] == pytest.approx(np.abs(x @ uphill - y).mean(), rel=1e-5)


def test_the_recipe_trains_with_it():
    network = train.build(RECIPES["sharp"], ["cat", "dog"], steps=4, fresh=False)
    assert isinstance(network, sharpness.SharpnessAware)
    assert network.radius == RECIPES["sharp"].sharpness > 0
    ordinary = train.build(RECIPES["long"], ["cat", "dog"], steps=4, fresh=False)
    assert not isinstance(ordinary, sharpness.SharpnessAware)


def test_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: ["gpu:0", "gpu:1"])
    with pytest.raises(UserError, match=r"expected TensorFlow on one device .*, got tensorflow on"):
        sharpness.check()


def test_another_backend_is_refused_before_photos_are_read(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    process = run_here(
        "train.py", "--recipe", "sharp", "--init", trained[0], "--data-dir", "nowhere", cwd=tmp_path
    )
    assert process.returncode == 2
    assert "--recipe: expected TensorFlow on one device" in process.stderr


@pytest.mark.slow
def test_a_run_continues_with_it(trained, photos_dir, tmp_path):
    process = run_here(
        "train.py", "--data-dir", photos_dir, "--cache-dir", tmp_path / "cache", "--recipe",
        "sharp", "--init", trained[0], "--epochs", "1", "--image-size", "48", "--output", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
