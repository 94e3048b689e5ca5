"""One model of two networks: the one that is trained, and its average."""

import functools

import keras
import numpy as np

import data
import model
from catdog.training import pixels
from catdog.training.average import AveragedNetwork

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
INPUTS = {"photos": IMAGES, "rows": np.zeros((8, 32)), "columns": np.zeros((8, 32))}


def averaged(steps_per_epoch=8):
    """A small network with its average, which takes photos as they are."""
    network = model.build("plain", 2, None)
    return AveragedNetwork(
        network,
        sample=lambda photos, rows, columns: photos,
        augment=lambda inputs, seed: inputs["photos"],
        steps_per_epoch=steps_per_epoch,
    )


def test_training_moves_the_average_towards_all_weights(small_plain):
    both = averaged()
    start = both.averaged_weights()
    both.network.set_weights([weight + 1 for weight in start])
    for _ in range(3):
        both(INPUTS, training=True)
    now = both.averaged_weights()
    assert len(now) == len(both.network.weights) > len(both.trainable_weights)
    share = 1 - (1 / 10) * (2 / 11) * (3 / 12)  # the decay of the first three steps
    for before, after, weight in zip(start, now, both.network.weights, strict=True):
        if "moving" not in weight.path:  # the statistics change in each step
            np.testing.assert_allclose(after, before + share, rtol=1e-5, atol=1e-5)
        assert not np.array_equal(before, after)


def test_the_decay_rises_to_that_of_one_epoch(small_plain):
    both = averaged(steps_per_epoch=4)
    both.updates.assign(1000)
    start = both.averaged_weights()[0]
    both.network.set_weights([weight + 1 for weight in both.averaged_weights()])
    both(INPUTS, training=True)
    np.testing.assert_allclose(both.averaged_weights()[0], start + 0.25, rtol=1e-5)


def test_evaluation_runs_the_averaged_weights_and_changes_nothing(small_plain):
    both = averaged()
    alone = keras.models.clone_model(both.network)
    alone.set_weights(both.averaged_weights())
    both.network.set_weights([weight * 1.5 for weight in both.network.get_weights()])
    before = [np.array(each) for each in both.variables]
    np.testing.assert_allclose(both(INPUTS, training=False), alone(IMAGES), rtol=1e-5, atol=1e-6)
    for old, new in zip(before, both.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_evaluation_samples_the_photos_as_pixels_does(small_plain):
    both = averaged()
    both.sample = functools.partial(pixels.sample, dtype="float32")
    whole = data.positions(np.zeros(8), np.ones(8), 32, 32)
    inputs = {"photos": IMAGES.astype("uint8"), "rows": whole, "columns": whole}
    np.testing.assert_allclose(both(inputs), both.network(IMAGES), rtol=1e-5, atol=1e-5)
