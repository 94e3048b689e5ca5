"""Metrics on small made-up predictions whose answers are known."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catdog.runs.calibration import softmax
from catdog.scores import metrics

CLASSES = ["cat", "dog"]
LABELS = [0, 0, 1, 1]
PROBABILITIES = [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_intervals(correct, total, low, high):
    assert metrics.wilson(correct, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = (1 - high, 1 - low)
    assert metrics.wilson(total - correct, total) == pytest.approx(mirrored, abs=5e-5)


def test_wilson_stays_in_range_and_refuses_the_impossible():
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    for total in range(1, 200):
        assert metrics.wilson(0, total)[0] == 0.0
        assert metrics.wilson(total, total)[1] == 1.0
    for correct, total in [(-1, 3), (4, 3)]:
        with pytest.raises(ValueError, match="k "):
            metrics.wilson(correct, total)


def test_score_of_two_classes_by_hand():
    score = metrics.score(LABELS, PROBABILITIES, CLASSES)
    assert list(score)[:9] == [
        "images",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "log_loss",
        "roc_auc",
        "confusion_matrix",
        "classes",
        "class_accuracy",
    ]
    assert score["images"] == 4
    assert score["accuracy"] == 0.75
    assert (score["accuracy_low"], score["accuracy_high"]) == metrics.wilson(3, 4)
    assert score["log_loss"] == pytest.approx(-math.log(0.9 * 0.6 * 0.35 * 0.8) / 4)
    assert score["roc_auc"] == 0.75  # of four pairs of a cat and a dog, 0.4 > 0.35 is out of order
    assert score["confusion_matrix"] == [[2, 0], [1, 1]]
    assert score["class_accuracy"] == score["class_recall"] == [1.0, 0.5]
    assert score["class_precision"] == pytest.approx([2 / 3, 1.0])
    assert score["class_f1"] == pytest.approx([0.8, 2 / 3])
    assert score["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert score["balanced_accuracy"] == 0.75
    assert json.loads(json.dumps(score, allow_nan=False)) == score  # plain Python values


def test_score_of_three_classes_by_hand():
    probabilities = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6], [0.5, 0.2, 0.3]]
    score = metrics.score([0, 1, 2, 2], probabilities, ["a", "b", "c"])
    assert score["confusion_matrix"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert score["log_loss"] == pytest.approx(-math.log(0.7 * 0.5 * 0.6 * 0.3) / 4)
    # a and b stand first among their own; of c's four pairs, 0.3 against 0.3 counts a half.
    assert score["roc_auc"] == pytest.approx((1 + 1 + 3.5 / 4) / 3)
    assert metrics.score([0, 1, 1, 1], probabilities, ["a", "b", "c"])["roc_auc"] is None


def test_what_has_no_value_is_none():
    score = metrics.score([1, 1], [[0.1, 0.9], [0.6, 0.4]], CLASSES)
    assert score["roc_auc"] is None
    assert score["class_accuracy"] == [None, 0.5]
    assert score["log_loss"] == pytest.approx(-math.log(0.9 * 0.4) / 2)
    for none in ([], np.zeros((0, 2))):
        score = metrics.score([], none, CLASSES)
        assert score["images"] == 0
        assert score["confusion_matrix"] == [[0, 0], [0, 0]]
        assert score["class_accuracy"] == [None, None]
        assert score["class_precision"] == score["class_f1"] == [None, None]
        for key in (
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "log_loss",
            "roc_auc",
            "balanced_accuracy",
            "macro_f1",
        ):
            assert score[key] is None


def test_a_class_without_photos_or_predictions_has_no_precision_and_no_recall():
    predicted = [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]
    score = metrics.score([0, 0, 2], predicted, ["a", "b", "c"])
    assert score["class_precision"] == [1.0, 0.0, None]
    assert score["class_recall"] == [0.5, None, 0.0]
    assert score["balanced_accuracy"] == 0.25
    assert score["macro_f1"] == pytest.approx(2 / 3 / 3)  # b was predicted, c has a photo


def test_six_classes_and_more_have_a_top_5_accuracy():
    probabilities = np.tile(np.array([6, 5, 4, 3, 2, 1]) / 21, (6, 1))
    score = metrics.score(np.arange(6), probabilities, list("abcdef"))
    assert score["accuracy"] == pytest.approx(1 / 6)
    assert score["top_5_accuracy"] == pytest.approx(5 / 6)
    assert metrics.score([], [], list("abcdef"))["top_5_accuracy"] is None
    few = metrics.score(np.arange(5), np.eye(5), list("abcde"))
    assert "top_5_accuracy" not in few


def test_log_loss_of_certain_answers_is_finite():
    certain = [[1.0, 0.0], [1.0, 0.0]]
    assert metrics.score([0, 0], certain, CLASSES)["log_loss"] == pytest.approx(0, abs=1e-6)
    assert metrics.score([0, 1], certain, CLASSES)["log_loss"] == pytest.approx(-math.log(1e-7) / 2)


@pytest.mark.filterwarnings("error")
def test_score_takes_what_networks_return():
    logits = np.random.default_rng(0).normal(0, 5, (101, 5)).astype(np.float16)
    probabilities = softmax(logits).astype(np.float16)
    score = metrics.score(np.arange(101, dtype=np.uint8) % 5, probabilities, list("abcde"))
    assert np.isfinite([score["log_loss"], score["roc_auc"]]).all()
    assert np.sum(score["confusion_matrix"]) == 101


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([0, 1], [[0.5, 0.5]], "shape"),
        ([0], [[0.2, 0.3, 0.5]], "shape"),
        ([[0]], [[0.5, 0.5]], "shape"),
        ([2], [[0.5, 0.5]], "labels from 0 to 1"),
        ([-1], [[0.5, 0.5]], "labels from 0 to 1"),
        ([0], [[math.nan, 0.5]], "sum to 1"),
        ([0], [[1.5, -0.5]], "sum to 1"),
        ([0], [[3.0, 2.0]], "sum to 1"),
    ],
)
def test_score_refuses_what_does_not_match(labels, probabilities, words):
    with pytest.raises(ValueError, match=words):
        metrics.score(labels, probabilities, CLASSES)


def test_score_refuses_a_single_class():
    with pytest.raises(ValueError, match="two classes"):
        metrics.score([0], [[1.0]], ["cat"])


def test_expected_calibration_error_by_hand():
    # Bins of a tenth: 0.95 twice, one of them wrong; 0.65 once, right.
    probabilities = [[0.05, 0.95], [0.05, 0.95], [0.65, 0.35]]
    error = metrics.expected_calibration_error([1, 0, 0], probabilities, bins=10)
    assert error == pytest.approx((2 * abs(0.5 - 0.95) + abs(1 - 0.65)) / 3)
    assert metrics.expected_calibration_error([0, 1], [[1, 0], [0, 1]]) == 0
    assert metrics.expected_calibration_error([1, 0], [[1, 0], [0, 1]]) == 1
    assert metrics.expected_calibration_error([], []) is None


def test_accuracy_by_threshold_by_hand():
    # Confidences 0.9 right, 0.8 right, 0.65 wrong, 0.6 right.
    thresholds, accuracy, unsure = metrics.accuracy_by_threshold(LABELS, PROBABILITIES)
    assert thresholds.tolist() == pytest.approx([0.6, 0.65, 0.8, 0.9])
    assert accuracy.tolist() == pytest.approx([3 / 4, 2 / 3, 1, 1])
    assert unsure.tolist() == pytest.approx([0, 0.25, 0.5, 0.75])
    tied = metrics.accuracy_by_threshold([0, 1, 0], [[0.7, 0.3], [0.7, 0.3], [0.6, 0.4]])
    assert [part.tolist() for part in tied] == [
        pytest.approx(values) for values in ([0.6, 0.7], [2 / 3, 1 / 2], [0, 1 / 3])
    ]
    assert all(len(part) == 0 for part in metrics.accuracy_by_threshold([], []))


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (5, 0, 2 / 32),  # all five on one side, or on the other
        (9, 1, 2 * (1 + 10) / 1024),
        (1, 9, 2 * (1 + 10) / 1024),
    ],
)
def test_mcnemar_by_hand(first, second, p_value):
    labels = np.array([1] * 40)
    predicted, others = labels.copy(), labels.copy()
    others[:first] = 0
    predicted[first : first + second] = 0
    predicted[-2:] = others[-2:] = 0  # both wrong: no disagreement
    assert metrics.mcnemar(labels, predicted, others) == {
        "only_first_right": first,
        "only_second_right": second,
        "p_value": pytest.approx(p_value),
    }


def test_imports_are_light_and_plots_leave_no_state(tmp_path):
    program = """
import sys
from catdog.runs import calibration
from catdog.scores import explain, inspect, kaggle, metrics, plots, report, tables

calibration.probabilities_from_logits([[0.0]])
heavy = {"sklearn", "scipy", "matplotlib", "jinja2", "keras", "tensorflow"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
plots.plot_history([], sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    root = Path(metrics.__file__).parents[2]
    command = [sys.executable, "-c", program, tmp_path / "curves.png"]
    subprocess.run(command, check=True, cwd=root)


def test_confident_joint_counts_labels_by_the_class_that_is_sure():
    labels = [0, 0, 0, 0, 1, 1, 1]
    of_one = np.array([0.1, 0.2, 0.9, 0.45, 0.9, 0.8, 0.1])
    probabilities = np.stack([1 - of_one, of_one], 1)
    # Mean probability of class 0 over its photos 0.5875, of class 1 0.6: the fourth is unsure.
    assert metrics.confident_joint(labels, probabilities).tolist() == [[2, 1], [1, 2]]


def test_confident_joint_finds_about_the_number_of_wrong_labels():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 10, 5000)
    logits = rng.normal(0, 1, (5000, 10))
    logits[np.arange(5000), true] += 5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = true.copy()
    labels[:250] = (labels[:250] + rng.integers(1, 10, 250)) % 10
    joint = metrics.confident_joint(labels, probabilities)
    assert joint.sum() - joint.trace() == 195  # the same as num_label_issues of cleanlab 2.9.0
    alike = np.tile([0.7, 0.3], (9, 1))
    assert metrics.confident_joint([0] * 9, alike).tolist() == [[9, 0], [0, 0]]
