"""Optimizer, loss and metrics."""

import keras
import numpy as np
import pytest

import data
import model
from catdog.training import optimizer
from catdog.training.settings import Settings

SETTINGS = Settings(epochs=3, batch_size=16, image_size=32, precision="float32")


@pytest.fixture(scope="module")
def dataset(photos_dir, tmp_path_factory):
    return data.load(photos_dir, SETTINGS.score_size, tmp_path_factory.mktemp("cache"))


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rate = optimizer.make(SETTINGS, steps_per_epoch=100)._learning_rate
    rates = [float(rate(step)) for step in range(301)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(SETTINGS.lr, rel=1e-3)
    assert peak == pytest.approx(300 * SETTINGS.warmup, abs=2)
    assert rates[300] == pytest.approx(0, abs=1e-9)
    assert (np.diff(rates[:peak]) > 0).all() and (np.diff(rates[peak + 1 :]) < 0).all()


def test_convolutions_take_orthogonal_steps_and_everything_else_adams():
    network = model.build("plain", 2, None)
    muon = optimizer.make(SETTINGS, steps_per_epoch=100)
    muon.build(network.trainable_variables)
    for variable in network.trainable_variables:
        assert muon._should_use_adamw(variable) == (len(variable.shape) != 4)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 16)).astype("float32")
    step = np.asarray(muon.zeropower_via_newtonschulz5(keras.ops.convert_to_tensor(kernel), 5))
    values = np.linalg.svd(step.reshape(-1, 16), compute_uv=False)
    assert step.shape == kernel.shape
    assert values.min() > 0.6 and values.max() < 1.3  # all alike, whatever the gradient's were


def test_orthogonal_steps_are_those_of_keras_own_muon():
    muon = optimizer.make(SETTINGS, steps_per_epoch=100)
    for shape in ((3, 3, 8, 16), (3, 3, 1, 16)):  # more rows than columns, and fewer
        kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
        matrix = keras.ops.convert_to_tensor(kernel.reshape(-1, 16))
        expected = keras.optimizers.Muon.zeropower_via_newtonschulz5(muon, matrix, 3)
        step = muon.zeropower_via_newtonschulz5(keras.ops.convert_to_tensor(kernel), 3)
        np.testing.assert_allclose(np.reshape(step, (-1, 16)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("logits", "share"),
    [
        ([[1.0], [2.0], [0.5]], 1),
        ([[-1.0], [-2.0], [0.0]], 1),
        ([[1.0], [-2.0], [0.5]], 2 / 3),
        ([[0.0, 2.0, 1.0]] * 3, 1),
        ([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 2 / 3),
    ],
)
def test_the_share_of_the_most_frequently_predicted_class(logits, share):
    metric = optimizer.LargestShare(max(2, len(logits[0])))
    for logit in logits:  # in batches of one
        metric.update_state(None, np.array([logit], np.float32))
    assert float(metric.result()) == pytest.approx(share, abs=1e-6)
    assert (float(metric.result()) == 1) == (share == 1)


def test_a_training_step_changes_every_trainable_weight(dataset):
    keras.utils.set_random_seed(0)
    network = model.build("plain", 2, None)
    optimizer.compile(network, SETTINGS, 2, steps_per_epoch=10)
    before = [w.numpy().copy() for w in network.trainable_weights]
    for inputs, targets in data.training_batches(dataset, SETTINGS, 0):
        images = data.augment(inputs, SETTINGS, "float32", keras.random.SeedGenerator(0))
        network.train_on_batch(images, targets)  # the rate of the first step is zero
    for old, new in zip(before, network.trainable_weights, strict=True):
        assert np.isfinite(new).all() and not np.array_equal(old, new), new.path


@pytest.mark.parametrize(
    ("flags", "limit", "precision"),
    [
        ("avx512f amx_bf16", None, "mixed_bfloat16"),
        ("avx512f amx_bf16", "AVX512_CORE_BF16", "mixed_bfloat16"),
        ("avx512f amx_bf16", "avx512_core", "float32"),  # bfloat16 would be emulated
        ("avx512f avx2", None, "float32"),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(monkeypatch, flags, limit, precision):
    monkeypatch.setattr(optimizer.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(optimizer.Path, "read_text", lambda path: flags)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert optimizer.best_precision("cpu:0") == precision
