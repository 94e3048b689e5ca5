"""Temperature and clip on small made-up logits whose answers are known."""

import math

import numpy as np
import pytest

from catdog.runs import calibration


def test_probabilities_from_logits():
    two = calibration.probabilities_from_logits([[0.0], [math.log(3)], [-1000.0], [1000.0]])
    np.testing.assert_allclose(two, [[0.5, 0.5], [0.25, 0.75], [1, 0], [0, 1]], atol=1e-15)
    three = calibration.probabilities_from_logits([[0, math.log(2), 0], [5000, 0, 0]])
    np.testing.assert_allclose(three, [[0.25, 0.5, 0.25], [1, 0, 0]], atol=1e-15)
    warm = calibration.probabilities_from_logits(np.float32([[2 * math.log(3)]]), temperature=2)
    np.testing.assert_allclose(warm, [[0.25, 0.75]], rtol=1e-6)
    assert calibration.probabilities_from_logits(np.zeros((0, 1))).shape == (0, 2)


def test_probabilities_from_logits_refuses():
    for temperature in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            calibration.probabilities_from_logits([[1.0]], temperature)
    for logits in ([1.0, 2.0], np.zeros((3, 0))):
        with pytest.raises(ValueError, match="shape"):
            calibration.probabilities_from_logits(logits)


def test_fit_temperature_by_hand():
    # Three of four right at one logit of 4: sigmoid(4 / T) = 3/4, so T = 4 / log(3).
    logits, labels = np.full((4, 1), 4.0), [1, 1, 1, 0]
    temperature = calibration.fit_temperature(logits, labels)
    assert temperature == pytest.approx(4 / math.log(3), rel=1e-3)
    probabilities = calibration.probabilities_from_logits(logits, temperature)
    np.testing.assert_allclose(probabilities, [[0.25, 0.75]] * 4, atol=1e-3)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_recovers_a_known_one(true_temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (20_000, 3))
    probabilities = calibration.probabilities_from_logits(logits, true_temperature)
    labels = (rng.random((20_000, 1)) > probabilities.cumsum(1)[:, :2]).sum(1)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(true_temperature, rel=0.05)


def test_fit_temperature_is_bounded():
    assert calibration.fit_temperature([[-3.0], [3.0]], [0, 1]) == 1.0
    assert calibration.fit_temperature(np.zeros((0, 1)), []) == 1.0
    assert 9 < calibration.fit_temperature([[-3.0], [3.0]], [1, 0]) <= 10


@pytest.mark.parametrize("labels", [[0], [0, 2], [-1, 0], [[0, 1]]])
def test_fit_temperature_refuses_labels_that_do_not_match(labels):
    with pytest.raises(ValueError, match="expected 2 labels from 0 to 1"):
        calibration.fit_temperature([[-3.0], [3.0]], labels)


def test_fit_clip_by_hand():
    # Of nine right answers at 1 and the added mistake, one in ten is wrong.
    assert calibration.fit_clip(np.ones(9), np.ones(9)) == pytest.approx(0.1, rel=0.02)
    assert calibration.fit_clip(np.zeros(9), np.zeros(9)) == pytest.approx(0.1, rel=0.02)
    assert calibration.fit_clip(np.zeros(0), np.zeros(0)) <= calibration.LARGEST_CLIP
