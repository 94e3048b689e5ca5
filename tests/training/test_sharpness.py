"""Sharpness-aware minimization: a step by hand, and where it cannot be had."""

import numpy as np
import pytest

from catdog.backend import keras, layers, tf
from catdog.errors import UserError
from catdog.training import sharpness
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


def test_several_devices_are_refused(trained):
    network = keras.saving.load_model(trained[0] / "model.keras")
    with (
        tf.distribute.OneDeviceStrategy("cpu:0").scope(),
        pytest.raises(UserError, match="expected the backend TensorFlow and one device"),
    ):
        sharpness.aware(network, RADIUS)


def test_a_run_continues_with_it(trained, photos_dir, tmp_path):
    process = run_here(
        "train.py", "--data-dir", photos_dir, "--cache-dir", tmp_path / "cache", "--recipe",
        "sharp", "--init", trained[0], "--epochs", "1", "--image-size", "48", "--output", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert RECIPES["sharp"].sharpness > 0
    assert (tmp_path / "run" / "metrics.json").is_file()
