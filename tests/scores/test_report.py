"""The HTML report: one file, safe, readable by those who cannot see it."""

import html.parser
import io
import time
import types

import numpy as np
import pytest
from PIL import Image

from catdog.runs.calibration import softmax
from catdog.scores import metrics, plots, report
from catdog.scores.pages import Section

CONFIG = {
    "settings": {"lr": 0.005, "arch": "<plain>", "init": "/home/me/run"},
    "data_dir": "/home/me/photos/",
    "classes": ["cat", "dog"],
    "exclude": [],
}


def metrics_of(labels, probabilities, classes):
    error = metrics.expected_calibration_error(labels, probabilities)
    return {
        "model": "runs/<b>\x1b",
        "split": "test",
        "skipped": 1,
        "excluded": 2,
        "trained_on": 7,
        "look_trained_on": 7,
        "calibration_error": error,
        "calibration_error_uncalibrated": error,
        **metrics.score(labels, probabilities, classes),
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
    mistakes, unsure, right = report.choose(np.array([1, 0, 0, 1, 1]), probabilities)
    assert mistakes.tolist() == [0, 2]
    assert unsure.tolist() == [4, 1, 2, 3, 0]
    assert sorted(right) == [1, 3, 4]


def report_of(labels, probabilities, classes, drawn=(), photos=()):
    found = metrics_of(labels, probabilities, classes)
    thresholds = metrics.accuracy_by_threshold(labels, probabilities)
    return report.report(found, thresholds, drawn, photos, CONFIG)


def test_the_page_needs_nothing_else_and_escapes_every_name():
    pictures = [(b"jpeg", "Photo labelled <i>cat"), (b"map", "It supports dog\x1b")]
    photo = {"path": "a\n<script>.jpg", "label": "<i>cat", "pictures": pictures}
    photo["answers"] = [("predicted", "dog\x1b", 0.987)]
    alone = photo | {"pictures": pictures[:1]}
    labels, probabilities = [0, 1, 1], np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    photos = [Section("Mistakes", "note", photos=[photo, alone]), Section("None", photos=[])]
    text = report_of(labels, probabilities, ["<i>cat", "dog\x1b"], photos=photos)
    elements = Elements(text).found
    assert {"script", "link", "i", "b\\x1b", "plain"}.isdisjoint(tag for tag, _ in elements)
    images = [attributes for tag, attributes in elements if tag == "img"]
    assert len(images) == 3
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert images[0]["alt"] == "Photo labelled <i>cat" and images[1]["alt"].endswith("dog\\x1b")
    assert not {"http:", "https:", "url(", "\x1b", "nan"} & set(text.lower().split('"'))
    for words in (
        "66.67%",
        "trained on 7 of",
        "1 file could not be read, 2 photos left out",
        "the more it supports the prediction.",
        "dog\\x1b 98.70%</span>",
        "There are none.",
        "&lt;plain&gt;",
        "a\\n&lt;script&gt;.jpg",
    ):
        assert words in text
    assert ">photos</td>" in text and "/home/me" not in text


class Classifier:
    """A network that takes 32 px and finds a dog in every photo."""

    classes, score_size = ("cat", "dog"), 32

    def outputs(self, images):
        return {"evidence": np.ones((len(images), 1, 1, 1))}


class Dataset:
    """A photo per size, and one that is gone."""

    classes = ("cat", "dog")

    def __init__(self, root, sizes):
        self.root, self.paths = root, [f"{width}x{height}.png" for width, height in sizes]
        for path, size in zip(self.paths, sizes, strict=True):
            Image.new("RGB", size).save(root / path)
        self.paths.append("gone.png")
        self.images = np.zeros((len(self.paths), 32, 32, 3), np.uint8)
        self.labels = np.arange(len(self.paths)) % 2


def scored_by(classifier, dataset, probabilities):
    members = np.arange(len(dataset.paths))
    return types.SimpleNamespace(
        classifier=classifier,
        dataset=dataset,
        members=members,
        labels=dataset.labels[members],
        probabilities=np.array(probabilities),
    )


def test_photos_of_every_shape_are_shown(tmp_path):
    dataset = Dataset(tmp_path, [(20, 30), (2000, 3), (3, 2000), (1300, 1), (1, 1300), (1, 1)])
    scored = scored_by(Classifier(), dataset, [(0.2, 0.8)] * len(dataset.paths))
    shown = {photo["path"]: photo for group in report.groups(scored) for photo in group.photos}
    assert set(shown) == set(dataset.paths)
    for photo in shown.values():
        (_, about), (_, about_map) = photo["pictures"]
        assert about == f"Photo labelled {photo['label']}, predicted dog 80.00%"
        assert "support dog" in about_map
        for data, _ in photo["pictures"]:
            with Image.open(io.BytesIO(data)) as image:
                assert max(image.size) == report.PHOTO_SIDE
    with Image.open(io.BytesIO(shown["1x1300.png"]["pictures"][0][0])) as image:
        assert image.size == (1, 320)


def test_comparison_shows_the_photos_on_which_runs_disagree(tmp_path):
    dataset = Dataset(tmp_path, [(20, 30), (30, 20), (8, 8)])  # cat, dog, cat, dog
    tables = [
        [(0.9, 0.1), (0.4, 0.6), (0.8, 0.2), (0.3, 0.7)],
        [(0.8, 0.2), (0.6, 0.4), (0.1, 0.9), (0.1, 0.9)],
    ]
    runs = [scored_by(Classifier(), dataset, table) for table in tables]
    scores = [metrics_of(each.labels, each.probabilities, ["cat", "dog"]) for each in runs]
    pairs = [metrics.mcnemar(runs[0].labels, *(each.probabilities.argmax(1) for each in runs))]
    text = report.compare(runs, {"runs": scores, "pairs": pairs})
    assert "different labels to 2 photos" in text
    assert "only A right 2, only B right 0" in text and "100.00%" in text
    shown = [text.index(f"</b>label {label}") for label in ("cat, A", "dog, A")]
    assert shown == sorted(shown) and text.count("<img ") == 2 * 3  # a photo and two maps
    assert "20x30.png" not in text and "in the order of the runs" in text


def test_precision_recall_f1_and_top_5_accuracy_are_shown():
    text = report_of(np.arange(6), np.full((6, 6), 1 / 6), list("abcdef"))
    for words in ("<b>83.33%</b><span>top-5 accuracy", "macro F1", "balanced accuracy"):
        assert words in text
    row = ["a", "1", "16.67%", "100.00%", "28.57%", "-"]
    names = ["class", "photos", "precision", "recall", "F1", "most often taken for"]
    assert "".join(f"<th>{name}</th>" for name in names) in text
    cells = zip(names, row, strict=True)
    assert "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in cells) in text


def test_a_missing_class_leaves_a_dash():
    text = report_of([0, 0], np.array([[0.9, 0.1], [0.6, 0.4]]), ["cat", "dog"])
    assert "<b>-</b><span>ROC AUC" in text
    assert "nan" not in text.lower() and "None" not in text


@pytest.mark.filterwarnings("error")
def test_many_photos_and_many_classes_make_it_neither_slow_nor_large(tmp_path):
    rng = np.random.default_rng(0)
    for n, classes in ((22_500, ["cat", "dog"]), (2_000, [f"class {i}" for i in range(200)])):
        labels = rng.permutation(np.arange(n) % len(classes))
        logits = rng.normal(0, 2, (n, len(classes)))
        logits[np.arange(n), labels] += 3
        probabilities = softmax(logits)
        started = time.process_time()
        drawn = plots.plot_evaluation(
            labels, probabilities, softmax(logits / 2), classes, [], tmp_path
        )
        report.choose(labels, probabilities)
        text = report_of(labels, probabilities, classes, drawn)
        assert time.process_time() - started < 30
        assert len(text) < 2_000_000  # of 5 MB; the photos shown are always as many
