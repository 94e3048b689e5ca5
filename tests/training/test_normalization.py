"""The fused batch normalization of TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from catdog.training import normalization


@pytest.mark.parametrize("trained", [True, False])
def test_fused_normalization_gives_kerass_results_gradients_and_averages(trained):
    inputs = keras.Input((6, 5, 3))
    plain = keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.8)(inputs))
    fused = normalization.fuse(plain)
    assert type(fused.layers[-1]) is not type(plain.layers[-1])
    rng = np.random.default_rng(0)
    start = [rng.uniform(0.5, 2, weight.shape).astype("float32") for weight in plain.get_weights()]
    fused.set_weights(start)
    plain.set_weights(start)
    images = tf.constant(rng.normal(1, 3, (4, 6, 5, 3)), tf.float32)
    slope = tf.constant(rng.normal(size=images.shape), tf.float32)
    both = []
    for network in (plain, fused):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = network(images, training=trained)
            loss = tf.reduce_sum(outputs * slope)
        sources = [images, *(weight.value for weight in network.trainable_weights)]
        both.append([outputs, *tape.gradient(loss, sources), *network.get_weights()])
    moved = [(a != b).any() for a, b in zip(start, fused.get_weights(), strict=True)]
    assert moved == [False, False, trained, trained]  # the averages move in training alone
    for expected, got in zip(*both, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)
