"""Ten classes of drawn shapes, uneven and split by the user, through every script."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from conftest import network_file, run_here, run_script

pytestmark = pytest.mark.slow

SHAPES = ("bar", "cross", "disc", "ring", "square")
COLOURS = {"blue": (40, 80, 200), "red": (210, 50, 40)}
CLASSES = sorted(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def draw_shape(shape, colour, rng, size=48):
    image = Image.new("RGB", (size, size), tuple(map(int, rng.integers(120, 256, 3))))
    pen = ImageDraw.Draw(image)
    r = int(size * rng.uniform(0.2, 0.4))
    x, y = (int(place) for place in rng.integers(r, size - r, 2))
    box = (x - r, y - r, x + r, y + r)
    if shape in ("bar", "cross"):
        pen.line((x - r, y, x + r, y), colour, r // 2)
    if shape == "cross":
        pen.line((x, y - r, x, y + r), colour, r // 2)
    if shape == "disc":
        pen.ellipse(box, colour)
    if shape == "ring":
        pen.ellipse(box, None, colour, max(2, r // 4))
    if shape == "square":
        pen.rectangle(box, colour)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/ with 90 shapes a class, but 30 of the first, and test/ with 20 a class."""
    folder = tmp_path_factory.mktemp("ten")
    for number, name in enumerate(CLASSES):
        colour, shape = name.split()
        for split, count in (("train", 30 if number == 0 else 90), ("test", 20)):
            (folder / split / name).mkdir(parents=True)
            for n in range(count):
                rng = np.random.default_rng([number, split == "test", n])
                draw_shape(shape, COLOURS[colour], rng).save(folder / split / name / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """A run on them; what train.py said is checked here."""
    process = run_script(
        "train.py",
        "--data-dir",
        folder,
        "--cache-dir",
        folder / "cache",
        "--image-size",
        48,
        "--epochs",
        6,
        "--class-weight",
        "balanced",
        "--output",
        folder.parent / "ten-run",
    )
    assert process.returncode == 0, process.stderr
    assert "10 classes: blue bar, blue cross, blue disc" in process.stderr
    uneven = next(line for line in process.stderr.splitlines() if line.startswith("Uneven"))
    assert "blue bar 2" in uneven and "red disc 8" in uneven and uneven.endswith("weighted")
    assert "most frequent confusions" in process.stdout
    return folder.parent / "ten-run"


def score(folder, run, *arguments):
    process = run_script(
        "evaluate.py",
        "--model",
        run,
        "--data-dir",
        folder,
        "--cache-dir",
        folder / "cache",
        "--json",
        *arguments,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_training_learns_them_and_keeps_the_users_test_split(folder, run):
    config = json.loads((run / "config.json").read_text())
    assert config["classes"] == CLASSES and config["splits"]["test"] == 200
    assert config["splits"]["train"] + config["splits"]["validation"] == 840
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.6
    assert network_file(run, ".tflite").exists() and (run / "curves.png").exists()


def test_evaluate_reports_every_class_and_the_largest_confusions(folder, run):
    metrics = score(folder, run, "--output", folder.parent / "ten-report")
    trained = json.loads((run / "metrics.json").read_text())["test"]
    assert {key: metrics[key] for key in trained} == trained
    assert metrics["classes"] == CLASSES and metrics["images"] == 200
    assert [sum(row) for row in metrics["confusion_matrix"]] == [20] * 10
    for i, accuracy in enumerate(metrics["class_accuracy"]):
        assert accuracy == metrics["confusion_matrix"][i][i] / 20
    assert 0.5 < metrics["roc_auc"] <= 1 and metrics["trained_on"] == 0
    page = (folder.parent / "ten-report" / "report.html").read_text()
    cells = re.sub(r">\s+<", "><", re.sub(r"<td[^>]*>", "<td>", page))
    assert all(f"<td>{name}</td><td>20</td>" in cells for name in CLASSES)
    assert "most often taken for" in page and "class activation map" in page
    pictures = {path.name for path in (folder.parent / "ten-report").glob("*.png")}
    assert len(pictures) == 9 and "novelty.png" in pictures
    with open(folder.parent / "ten-report" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200 and all(row["path"].startswith("test/") for row in rows)


def test_predict_lists_the_most_probable_explains_them_and_can_be_unsure(folder, run):
    photos = [folder / "test" / name / "3.png" for name in CLASSES]
    process = run_script("predict.py", "--model", run, "--json", "--top", 5, *photos)
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(lines) == 10
    for line in lines:
        ranked = sorted(line["probabilities"], key=line["probabilities"].get, reverse=True)
        assert line["labels"] == ranked[:5] and line["label"] == ranked[0]
        assert set(ranked) == set(CLASSES)
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    right = sum(line["label"] == name for line, name in zip(lines, CLASSES, strict=True))
    assert right >= 4

    process = run_script(
        "predict.py", "--model", run, "--top", 5, "--explain", folder / "maps", *photos
    )
    assert process.returncode == 0, process.stderr
    assert all(len(line.split("\t")) == 2 + 2 * 5 for line in process.stdout.splitlines())
    assert len(list((folder / "maps").iterdir())) == 10
    process = run_script("predict.py", "--model", run, "--threshold", 1, *photos)
    assert {line.split("\t")[1] for line in process.stdout.splitlines()} == {"unsure"}


def test_another_run_can_start_from_it_with_other_classes(folder, run, no_export):
    two = folder / "two"
    for name in CLASSES[:2]:
        (two / name).mkdir(parents=True)
        for n in range(60):
            colour, shape = name.split()
            draw_shape(shape, COLOURS[colour], np.random.default_rng([n, 7])).save(
                two / name / f"{n}.png"
            )
    process = run_here(
        "train.py",
        "--data-dir",
        two,
        "--cache-dir",
        two / "cache",
        "--image-size",
        48,
        "--epochs",
        2,
        "--init",
        run,
        "--output",
        folder.parent / "two-run",
    )
    assert process.returncode == 0, process.stderr
    assert f"starting from {run}" in process.stderr
    config = json.loads((folder.parent / "two-run" / "config.json").read_text())
    assert config["settings"]["init"] == str(run) and config["classes"] == CLASSES[:2]
