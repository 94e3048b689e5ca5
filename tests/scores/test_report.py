"""The page of a report: whole in itself, safe, readable by those who cannot see it."""

import dataclasses
import html.parser
import time

import numpy as np
import pytest

from catdog.scores import report as page
from catdog.scores import plots
from catdog.scores import metrics as report

CONFIG = {"settings": {"lr": 0.005, "arch": "<plain>"}, "classes": ["cat", "dog"], "exclude": []}


def metrics_of(labels, probabilities, classes):
    error = report.expected_calibration_error(labels, probabilities)
    return {
        "model": "runs/<b>\x1b",
        "split": "test",
        "skipped": 1,
        "excluded": 2,
        "trained_on": 7,
        "calibration_error": error,
        "calibration_error_uncalibrated": error,
        **report.score(labels, probabilities, classes),
    }


class Elements(html.parser.HTMLParser):
    """Every opening tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_choose_takes_the_surest_mistakes_and_the_least_sure():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.49, 0.51]])
    mistakes, unsure, right = page.choose(np.array([1, 0, 0, 1, 1]), probabilities)
    assert mistakes.tolist() == [0, 2]
    assert unsure.tolist() == [4, 1, 2, 3, 0]
    assert sorted(right) == [1, 3, 4]


def test_the_page_needs_nothing_else_and_escapes_every_name():
    photo = page.Photo("a\n<script>.jpg", "<i>cat", "dog\x1b", 0.987, b"jpeg", b"map")
    alone = dataclasses.replace(photo, map=None)
    labels, probabilities = [0, 1, 1], np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    text = page.render(
        metrics_of(labels, probabilities, ["<i>cat", "dog\x1b"]),
        report.accuracy_by_threshold(labels, probabilities),
        [],
        [("Mistakes", "note", [photo, alone]), ("None", "note", [])],
        CONFIG,
    )
    elements = Elements(text).found
    assert {"script", "link", "i", "b\\x1b", "plain"}.isdisjoint(tag for tag, _ in elements)
    images = [attributes for tag, attributes in elements if tag == "img"]
    assert len(images) == 3
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert images[0]["alt"] == "Photo labelled <i>cat, predicted dog\\x1b 98.70%"
    assert "spoke for dog" in images[1]["alt"]
    assert not {"http:", "https:", "url(", "\x1b", "nan"} & set(text.lower().split('"'))
    for words in (
        "66.67%",
        "trained on 7 of",
        "1 files could not be read, 2 photos were left out",
        "There are none.",
        "&lt;plain&gt;",
        "a\\n&lt;script&gt;.jpg",
    ):
        assert words in text


def test_a_missing_class_leaves_a_dash():
    labels, probabilities = [0, 0], np.array([[0.9, 0.1], [0.6, 0.4]])
    text = page.render(
        metrics_of(labels, probabilities, ["cat", "dog"]),
        report.accuracy_by_threshold(labels, probabilities),
        [],
        [],
        CONFIG,
    )
    assert "<b>–</b><span>ROC AUC" in text
    assert "nan" not in text.lower() and "None" not in text


@pytest.mark.filterwarnings("error")
def test_many_photos_and_many_classes_make_it_neither_slow_nor_large(tmp_path):
    rng = np.random.default_rng(0)
    for n, classes in ((22_500, ["cat", "dog"]), (2_000, [f"class {i}" for i in range(200)])):
        labels = rng.permutation(np.arange(n) % len(classes))
        logits = rng.normal(0, 2, (n, len(classes)))
        logits[np.arange(n), labels] += 3
        probabilities = report.softmax(logits)
        metrics = metrics_of(labels, probabilities, classes)
        started = time.process_time()
        drawn = plots.plot_evaluation(
            labels, probabilities, report.softmax(logits / 2), classes, [], tmp_path
        )
        page.choose(labels, probabilities)
        text = page.render(
            metrics, report.accuracy_by_threshold(labels, probabilities), drawn, [], CONFIG
        )
        assert time.process_time() - started < 30
        assert len(text) < 2_000_000  # of 5 MB; the photos shown are always as many
