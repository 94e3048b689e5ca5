"""The HTML report: one file, safe, readable by those who cannot see it."""

import html.parser
import io
import time

import numpy as np
import pytest
from PIL import Image

from catdog.runs.calibration import softmax
from catdog.scores import metrics, plots, report

CONFIG = {"settings": {"lr": 0.005, "arch": "<plain>"}, "classes": ["cat", "dog"], "exclude": []}


def metrics_of(labels, probabilities, classes):
    error = metrics.expected_calibration_error(labels, probabilities)
    return {
        "model": "runs/<b>\x1b",
        "split": "test",
        "skipped": 1,
        "excluded": 2,
        "trained_on": 7,
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


def test_the_page_needs_nothing_else_and_escapes_every_name():
    photo = {"path": "a\n<script>.jpg", "label": "<i>cat", "predicted": "dog\x1b"}
    photo |= {"probability": 0.987, "image": b"jpeg", "map": b"map"}
    alone = photo | {"map": None}
    labels, probabilities = [0, 1, 1], np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    text = report.render(
        metrics_of(labels, probabilities, ["<i>cat", "dog\x1b"]),
        metrics.accuracy_by_threshold(labels, probabilities),
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
    assert "support dog" in images[1]["alt"]
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


class Classifier:
    """A network that takes 32 px and finds a dog in every photo."""

    classes, image_size = ("cat", "dog"), 32

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


def test_photos_of_every_shape_are_shown(tmp_path):
    dataset = Dataset(tmp_path, [(20, 30), (2000, 3), (3, 2000), (1300, 1), (1, 1300), (1, 1)])
    probabilities = np.full((len(dataset.paths), 2), (0.2, 0.8))
    members = np.arange(len(dataset.paths))
    groups = report.photo_groups(Classifier(), dataset, members, probabilities)
    shown = {photo["path"]: photo for *_, photos in groups for photo in photos}
    assert set(shown) == set(dataset.paths)
    for photo in shown.values():
        for data in (photo["image"], photo["map"]):
            with Image.open(io.BytesIO(data)) as image:
                assert max(image.size) == report.PHOTO_SIDE
    with Image.open(io.BytesIO(shown["1x1300.png"]["image"])) as image:
        assert image.size == (1, 320)


def test_precision_recall_f1_and_top_5_accuracy_are_shown():
    labels, probabilities = np.arange(6), np.full((6, 6), 1 / 6)
    found = metrics_of(labels, probabilities, list("abcdef"))
    text = report.render(
        found, metrics.accuracy_by_threshold(labels, probabilities), [], [], CONFIG
    )
    for words in ("<b>83.33%</b><span>top-5 accuracy", "macro F1", "balanced accuracy"):
        assert words in text
    row = ["a", "1", "16.67%", "100.00%", "28.57%", "-"]
    names = ["class", "photos", "precision", "recall", "F1", "most often taken for"]
    assert "".join(f"<th>{name}</th>" for name in names) in text
    cells = zip(names, row, strict=True)
    assert "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in cells) in text


def test_a_missing_class_leaves_a_dash():
    labels, probabilities = [0, 0], np.array([[0.9, 0.1], [0.6, 0.4]])
    text = report.render(
        metrics_of(labels, probabilities, ["cat", "dog"]),
        metrics.accuracy_by_threshold(labels, probabilities),
        [],
        [],
        CONFIG,
    )
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
        found = metrics_of(labels, probabilities, classes)
        started = time.process_time()
        drawn = plots.plot_evaluation(
            labels, probabilities, softmax(logits / 2), classes, [], tmp_path
        )
        report.choose(labels, probabilities)
        text = report.render(
            found, metrics.accuracy_by_threshold(labels, probabilities), drawn, [], CONFIG
        )
        assert time.process_time() - started < 30
        assert len(text) < 2_000_000  # of 5 MB; the photos shown are always as many
