"""Metrics on small made-up predictions whose answers are known."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catdog.scores import metrics as report

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
    assert report.wilson(correct, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = (1 - high, 1 - low)
    assert report.wilson(total - correct, total) == pytest.approx(mirrored, abs=5e-5)


def test_wilson_stays_in_range_and_refuses_the_impossible():
    assert report.wilson(0, 0) == (0.0, 1.0)
    for total in range(1, 200):
        assert report.wilson(0, total)[0] == 0.0
        assert report.wilson(total, total)[1] == 1.0
    for correct, total in [(-1, 3), (4, 3)]:
        with pytest.raises(ValueError, match=f"correct={correct}"):
            report.wilson(correct, total)


def test_score_of_two_classes_by_hand():
    score = report.score(LABELS, PROBABILITIES, CLASSES)
    assert list(score) == [
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
    assert (score["accuracy_low"], score["accuracy_high"]) == report.wilson(3, 4)
    assert score["log_loss"] == pytest.approx(-math.log(0.9 * 0.6 * 0.35 * 0.8) / 4)
    assert score["roc_auc"] == 0.75  # of four pairs of a cat and a dog, 0.4 > 0.35 is out of order
    assert score["confusion_matrix"] == [[2, 0], [1, 1]]
    assert score["class_accuracy"] == [1.0, 0.5]
    assert json.loads(json.dumps(score, allow_nan=False)) == score  # plain Python values


def test_score_of_three_classes_by_hand():
    probabilities = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6], [0.5, 0.2, 0.3]]
    score = report.score([0, 1, 2, 2], probabilities, ["a", "b", "c"])
    assert score["confusion_matrix"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert score["log_loss"] == pytest.approx(-math.log(0.7 * 0.5 * 0.6 * 0.3) / 4)
    # a and b stand first among their own; of c's four pairs, 0.3 against 0.3 counts a half.
    assert score["roc_auc"] == pytest.approx((1 + 1 + 3.5 / 4) / 3)
    assert report.score([0, 1, 1, 1], probabilities, ["a", "b", "c"])["roc_auc"] is None


def test_what_has_no_value_is_none():
    score = report.score([1, 1], [[0.1, 0.9], [0.6, 0.4]], CLASSES)
    assert score["roc_auc"] is None
    assert score["class_accuracy"] == [None, 0.5]
    assert score["log_loss"] == pytest.approx(-math.log(0.9 * 0.4) / 2)
    for none in ([], np.zeros((0, 2))):
        score = report.score([], none, CLASSES)
        assert score["images"] == 0
        assert score["confusion_matrix"] == [[0, 0], [0, 0]]
        assert score["class_accuracy"] == [None, None]
        for key in ("accuracy", "accuracy_low", "accuracy_high", "log_loss", "roc_auc"):
            assert score[key] is None


def test_log_loss_of_certain_answers_is_finite():
    certain = [[1.0, 0.0], [1.0, 0.0]]
    assert report.score([0, 0], certain, CLASSES)["log_loss"] == pytest.approx(0, abs=1e-6)
    assert report.score([0, 1], certain, CLASSES)["log_loss"] == pytest.approx(-math.log(1e-7) / 2)


@pytest.mark.filterwarnings("error")
def test_score_takes_what_networks_return():
    logits = np.random.default_rng(0).normal(0, 5, (101, 5)).astype(np.float16)
    probabilities = report.softmax(logits).astype(np.float16)
    score = report.score(np.arange(101, dtype=np.uint8) % 5, probabilities, list("abcde"))
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
        report.score(labels, probabilities, CLASSES)


def test_score_refuses_a_single_class():
    with pytest.raises(ValueError, match="two names"):
        report.score([0], [[1.0]], ["cat"])


def test_expected_calibration_error_by_hand():
    # Bins of a tenth: 0.95 twice, one of them wrong; 0.65 once, right.
    probabilities = [[0.05, 0.95], [0.05, 0.95], [0.65, 0.35]]
    error = report.expected_calibration_error([1, 0, 0], probabilities, bins=10)
    assert error == pytest.approx((2 * abs(0.5 - 0.95) + abs(1 - 0.65)) / 3)
    assert report.expected_calibration_error([0, 1], [[1, 0], [0, 1]]) == 0
    assert report.expected_calibration_error([1, 0], [[1, 0], [0, 1]]) == 1
    assert report.expected_calibration_error([], []) is None


def test_format_score_shows_figures_and_matrix():
    lines = report.format_score(report.score(LABELS, PROBABILITIES, CLASSES)).splitlines()
    assert lines[0] == "accuracy   75.00%  (95% interval 30.06% to 95.44%, 4 photos)"
    assert lines[1] == "log loss   0.4723"
    assert lines[2] == "ROC AUC    0.7500"
    assert lines[4:] == [
        "true \\ predicted  cat  dog  correct",
        "cat                 2    0  100.00%",
        "dog                 1    1   50.00%",
    ]


def test_format_score_of_nothing_and_of_many_classes():
    assert "nan" not in report.format_score(report.score([], [], CLASSES)).lower()
    names = [f"breed {i}" for i in range(12)]
    labels = np.arange(36) % 12
    predicted = labels.copy()
    predicted[[3, 15]] = 7
    text = report.format_score(report.score(labels, np.eye(12)[predicted], names))
    assert text.splitlines()[4:] == [
        "largest confusions",
        "true class  predicted  photos",
        "breed 3     breed 7         2",
        "",
        "least often right",
        "true class  photos  correct",
        "breed 3          3   33.33%",
    ]
    assert "no mistakes" in report.format_score(report.score(labels, np.eye(12)[labels], names))


def test_format_score_keeps_the_terminal_safe():
    text = report.format_score(report.score(LABELS, PROBABILITIES, ["c\nat", "\x1b[31mdog"]))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 7


def test_to_json_is_strict_and_on_one_line():
    text = report.to_json(
        {
            "nan": math.nan,
            "inf": [-math.inf, np.float32(np.inf)],
            "path": Path("a") / "b",
            "array": np.array([[1.5, np.nan]]),
            "int": np.int64(3),
            "bool": (np.bool_(True), False),
            "long": np.longdouble(0.5),
            "empty": np.zeros((0, 2)),
            "text": "line\nline",
            1: None,
        }
    )
    assert "\n" not in text
    assert json.loads(text, parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, None],
        "path": str(Path("a") / "b"),
        "array": [[1.5, None]],
        "int": 3,
        "bool": [True, False],
        "long": 0.5,
        "empty": [],
        "text": "line\nline",
        "1": None,
    }
    with pytest.raises(TypeError):
        report.to_json({"object": object()})


def test_probabilities_from_logits():
    two = report.probabilities_from_logits([[0.0], [math.log(3)], [-1000.0], [1000.0]])
    np.testing.assert_allclose(two, [[0.5, 0.5], [0.25, 0.75], [1, 0], [0, 1]], atol=1e-15)
    three = report.probabilities_from_logits([[0, math.log(2), 0], [5000, 0, 0]])
    np.testing.assert_allclose(three, [[0.25, 0.5, 0.25], [1, 0, 0]], atol=1e-15)
    warm = report.probabilities_from_logits(np.float32([[2 * math.log(3)]]), temperature=2)
    np.testing.assert_allclose(warm, [[0.25, 0.75]], rtol=1e-6)
    assert report.probabilities_from_logits(np.zeros((0, 1))).shape == (0, 2)


def test_probabilities_from_logits_refuses():
    for temperature in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            report.probabilities_from_logits([[1.0]], temperature)
    for logits in ([1.0, 2.0], np.zeros((3, 0))):
        with pytest.raises(ValueError, match="shape"):
            report.probabilities_from_logits(logits)


def test_fit_temperature_by_hand():
    # Three of four right at one logit of 4: sigmoid(4 / T) = 3/4, so T = 4 / log(3).
    logits, labels = np.full((4, 1), 4.0), [1, 1, 1, 0]
    temperature = report.fit_temperature(logits, labels)
    assert temperature == pytest.approx(4 / math.log(3), rel=1e-3)
    probabilities = report.probabilities_from_logits(logits, temperature)
    assert report.expected_calibration_error(labels, probabilities) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_recovers_a_known_one(true_temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (20_000, 3))
    probabilities = report.probabilities_from_logits(logits, true_temperature)
    labels = (rng.random((20_000, 1)) > probabilities.cumsum(1)[:, :2]).sum(1)
    assert report.fit_temperature(logits, labels) == pytest.approx(true_temperature, rel=0.05)


def test_fit_temperature_is_bounded():
    assert report.fit_temperature([[-3.0], [3.0]], [0, 1]) == 1.0
    assert report.fit_temperature(np.zeros((0, 1)), []) == 1.0
    assert 9 < report.fit_temperature([[-3.0], [3.0]], [1, 0]) <= 10


def test_accuracy_by_threshold_by_hand():
    # Confidences 0.9 right, 0.8 right, 0.65 wrong, 0.6 right.
    thresholds, accuracy, unsure = report.accuracy_by_threshold(LABELS, PROBABILITIES)
    assert thresholds.tolist() == pytest.approx([0.6, 0.65, 0.8, 0.9])
    assert accuracy.tolist() == pytest.approx([3 / 4, 2 / 3, 1, 1])
    assert unsure.tolist() == pytest.approx([0, 0.25, 0.5, 0.75])
    tied = report.accuracy_by_threshold([0, 1, 0], [[0.7, 0.3], [0.7, 0.3], [0.6, 0.4]])
    assert [part.tolist() for part in tied] == [
        pytest.approx(values) for values in ([0.6, 0.7], [2 / 3, 1 / 2], [0, 1 / 3])
    ]
    assert all(len(part) == 0 for part in report.accuracy_by_threshold([], []))


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
    assert report.mcnemar(labels, predicted, others) == {
        "only_first_right": first,
        "only_second_right": second,
        "p_value": pytest.approx(p_value),
    }


def test_format_comparison_names_the_runs_and_the_verdict():
    scores = [
        {"model": name, **report.score(LABELS, PROBABILITIES, CLASSES)}
        for name in ("runs/a", "runs/\x1blonger")
    ]
    pair = {"only_first_right": 1_200, "only_second_right": 0, "p_value": 1e-9}
    lines = report.format_comparison(scores, [pair]).splitlines()
    assert lines[1].split() == [
        "A",
        "runs/a",
        "75.00%",
        "30.06%",
        "to",
        "95.44%",
        "0.4723",
        "0.7500",
    ]
    assert lines[2].startswith("B  runs/?longer    75.00%")
    assert lines[-1] == (
        "A against B: only A right 1,200, only B right 0, p = 1e-09: more than chance"
    )


def test_import_is_light_and_plots_leave_no_state(tmp_path):
    program = (
        "import sys, plots, report\n"
        "report.probabilities_from_logits([[0.0]]), report.to_json({})\n"
        "assert not {'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "plots.plot_history([], sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "curves.png"],
        check=True,
        cwd=Path(report.__file__).parents[2],
    )
