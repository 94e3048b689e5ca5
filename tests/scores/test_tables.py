"""Tables for the terminal, and CSV files that read back as they were written."""

import csv

import numpy as np
import pytest

from catdog.scores import metrics, tables

CLASSES = ["cat", "dog"]
LABELS = [0, 0, 1, 1]
PROBABILITIES = [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]


def lines_of(labels, probabilities, classes):
    return tables.format_score(metrics.score(labels, probabilities, classes)).splitlines()


def test_format_score_shows_figures_and_matrix():
    assert lines_of(LABELS, PROBABILITIES, CLASSES) == [
        "accuracy           75.00%  (95% interval 30.06% to 95.44%, 4 photos)",
        "balanced accuracy  75.00%  (mean recall of the classes)",
        "macro F1           73.33%  (mean F1 of the classes)",
        "log loss           0.4723",
        "ROC AUC            0.7500",
        "",
        "true \\ predicted  cat  dog",
        "cat                 2    0",
        "dog                 1    1",
        "",
        "class  photos  precision   recall      F1",
        "cat         2     66.67%  100.00%  80.00%",
        "dog         2    100.00%   50.00%  66.67%",
    ]


def test_format_score_of_nothing_and_of_many_classes():
    assert "nan" not in "".join(lines_of([], [], CLASSES)).lower()
    names = [f"breed {i}" for i in range(12)]
    labels = np.arange(36) % 12
    predicted = labels.copy()
    predicted[[3, 15]] = 7
    lines = lines_of(labels, np.eye(12)[predicted], names)
    assert lines[1].startswith("top-5 accuracy")
    assert lines[7:12] == [
        "most frequent confusions",
        "true class  predicted  photos",
        "breed 3     breed 7         2",
        "",
        "classes of the lowest recall",
    ]
    assert lines[13].split() == ["breed", "3", "3", "100.00%", "33.33%", "50.00%"]
    assert len(lines) == 13 + tables.MOST_ROWS
    assert "none" in lines_of(labels, np.eye(12)[labels], names)


def test_format_score_keeps_the_terminal_safe():
    lines = lines_of(LABELS, PROBABILITIES, ["c\nat", "\x1b[31mdog"])
    assert len(lines) == 13
    assert "\x1b" not in "".join(lines)


def test_format_comparison_names_the_runs_and_the_verdict():
    score = metrics.score(LABELS, PROBABILITIES, CLASSES)
    scores = [{"model": name, **score} for name in ("runs/a", "runs/\x1blonger")]
    pair = {"only_first_right": 1_200, "only_second_right": 0, "p_value": 1e-9}
    lines = tables.format_comparison(scores, [pair]).splitlines()
    figures = ["75.00%", "30.06%", "to", "95.44%", "0.4723", "0.7500"]
    assert lines[1].split() == ["A", "runs/a", *figures]
    assert lines[2].startswith("B  runs/\\x1blonger    75.00%")
    assert lines[-1] == ("A against B: only A right 1,200, only B right 0, p = 1e-09: significant")


ROWS = [
    ["path", "label", "probability"],
    ['a,b/"c".jpg', "two\nlines", "0.500000"],
    ["carriage\rreturn/1.jpg", "ends\r\n", "1.000000"],
    ["ünï/\udcff.jpg", " spaces ", ""],
]


@pytest.mark.parametrize("rows", [ROWS[:2], ROWS], ids=["no carriage return", "all"])
def test_csv_reads_back_row_for_row(tmp_path, rows):
    tables.write_csv(tmp_path / "rows.csv", [*rows, [1, 0.25, -3]])
    with open(tmp_path / "rows.csv", newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [*rows, ["1", "0.25", "-3"]]
    assert b"/\xff.jpg" in (tmp_path / "rows.csv").read_bytes() or rows is not ROWS


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "'=1", "''@a"])
def test_csv_holds_no_formula_and_an_apostrophe_less_gives_the_name(tmp_path, name):
    tables.write_csv(tmp_path / "rows.csv", [[name, f"a{name}", "'quoted'"]])
    with open(tmp_path / "rows.csv", newline="") as file:
        ((cell, *others),) = csv.reader(file)
    assert cell == f"'{name}"
    assert others == [f"a{name}", "'quoted'"]
