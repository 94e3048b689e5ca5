"""Photos that are called unknown, by the scripts."""

import json
import os
import shutil

import numpy as np
import pytest

from catdog.photos import drawings
from catdog.runs import novelty
from catdog.runs.classifier import Classifier
from conftest import run_here

ALMOST_ALL = ("--unknown-at", 0.0001)  # call nearly every photo unknown


def images_of(count, size, seed=9):
    rngs = [np.random.default_rng((seed, number)) for number in range(count)]
    return np.stack([np.asarray(drawings.draw(i % 2, rng, size)) for i, rng in enumerate(rngs)])


@pytest.fixture(scope="module")
def with_reference(trained, tmp_path_factory):
    """The trained run with a reference: of its own, 41 validation photos are too few."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    shutil.copytree(trained[0], folder)
    classifier = Classifier(folder)
    features = classifier.outputs(images_of(200, classifier.image_size))["features"]
    identity = classifier.config["litert_sha256"]
    novelty.fit(features[:80], features[80:], identity).save(folder / novelty.FILE)
    return folder


@pytest.fixture
def photo(tmp_path):
    drawings.draw(0, np.random.default_rng(5), 96).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def predict(run, *arguments):
    process = run_here("predict.py", "--model", run, *arguments)
    assert process.returncode == 0, process.stderr
    return process


def test_unknown_photo_has_its_novelty_instead_of_a_label(with_reference, photo):
    name, word, value = predict(with_reference, photo, *ALMOST_ALL).stdout.strip().split("\t")
    assert (name, word) == (str(photo), "unknown")
    assert 0 < float(value) <= 1


def test_json_of_an_unknown_photo_has_no_label(with_reference, photo):
    line = json.loads(predict(with_reference, photo, "--json", *ALMOST_ALL).stdout)
    assert line["unknown"] is True
    assert line["label"] is None
    assert 0 < line["novelty"] <= 1
    assert sum(line["probabilities"].values()) == pytest.approx(1)


def test_limit_of_1_switches_unknown_off(with_reference, photo):
    line = json.loads(predict(with_reference, photo, "--json", "--unknown-at", 1).stdout)
    assert line["unknown"] is False
    assert line["label"] in ("cat", "dog")


def test_threshold_and_top_do_not_name_an_unknown_photo(with_reference, photo):
    arguments = ("--top", 2, "--threshold", 0.01, *ALMOST_ALL)
    assert "unknown" in predict(with_reference, photo, *arguments).stdout
    line = json.loads(predict(with_reference, photo, "--json", *arguments).stdout)
    assert line["labels"] == []


def test_sort_copies_unknown_photos_into_a_folder_of_their_own(with_reference, photo, tmp_path):
    arguments = ("--sort", tmp_path / "new", "--explain", tmp_path / "drawn", *ALMOST_ALL)
    predict(with_reference, photo, *arguments)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["unknown"]
    assert (tmp_path / "new" / "unknown" / "cat.png").read_bytes() == photo.read_bytes()


def test_kaggle_submission_never_says_unknown(with_reference, photo, tmp_path):
    test = tmp_path / "test1"
    test.mkdir()
    shutil.copy(photo, test / "1.png")
    predict(with_reference, tmp_path, "--kaggle", tmp_path / "out.csv", *ALMOST_ALL)
    assert "unknown" not in (tmp_path / "out.csv").read_text()


def test_run_without_a_reference_predicts_as_before(trained, photo):
    line = json.loads(predict(trained[0], photo, "--json", *ALMOST_ALL).stdout)
    assert line["label"] is not None
    assert not {"unknown", "novelty"} & set(line)


@pytest.mark.parametrize("damage", ["torn", "another network"])
def test_reference_that_cannot_be_used_is_one_line(with_reference, photo, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(with_reference, run)
    if damage == "torn":
        os.truncate(run / novelty.FILE, 1000)
    else:
        reference = Classifier(with_reference).reference
        novelty.Reference(**{**fields(reference), "network": "x"}).save(run / novelty.FILE)
    process = predict(run, photo, *ALMOST_ALL)
    lines = [line for line in process.stderr.splitlines() if novelty.FILE in line]
    assert len(lines) == 1
    assert lines[0].endswith("no photo is called unknown")
    assert "unknown" not in process.stdout


def fields(reference):
    names = ("photos", "mean", "deviation", "scores", "network")
    return {name: getattr(reference, name) for name in names}


def test_features_of_another_width_are_one_warning(with_reference, caplog):
    classifier = Classifier(with_reference)
    outputs = {"features": np.ones((2, 6), np.float32)}
    assert classifier.novelty(outputs) is None
    assert classifier.novelty(outputs) is None
    assert len(caplog.records) == 1


def test_both_runtimes_have_the_same_features(trained):
    import model

    litert, keras = Classifier(trained[0]), Classifier(trained[0], model.load, "keras")
    images = images_of(4, litert.image_size)
    expected = keras.outputs(images)["features"]
    assert expected.shape == (4, 512)
    assert np.abs(litert.outputs(images)["features"] - expected).max() < 0.1 * expected.max()


def test_novelty_is_fitted_from_a_dataset_and_replaced(trained, tmp_path, monkeypatch):
    class Drawn:  # as data.Dataset
        images = images_of(60, 64)
        labels = np.arange(60) % 2
        splits = {"train": np.arange(40), "validation": np.arange(40, 60)}  # noqa: RUF012

        def batches(self, members, size=64):
            yield self.images[members]

    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    classifier = Classifier(run)
    Drawn.images = images_of(60, classifier.image_size)
    features = classifier.outputs_of(Drawn(), Drawn.splits["validation"])["features"]
    classifier.fit_novelty(Drawn(), features)
    assert not (run / novelty.FILE).exists()  # too few validation photos
    monkeypatch.setattr(novelty, "MIN_VALIDATION", 20)
    classifier.fit_novelty(Drawn(), features)
    assert len(Classifier(run).reference.photos) == 40
    classifier.fit_novelty(Drawn(), None)
    assert not (run / novelty.FILE).exists()
    assert classifier.reference is None


def test_evaluate_reports_refused_photos_and_outsiders(with_reference, photos_dir, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        drawings.draw(0, np.random.default_rng(number), 64).save(pictures / f"{number}.png")
    (pictures / "broken.png").write_text("no picture")
    arguments = ("--data-dir", photos_dir, "--cache-dir", tmp_path / "cache")
    process = run_here(
        "evaluate.py", "--model", with_reference, *arguments, "--unknown", pictures,
        "--output", tmp_path / "report",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "called unknown" in process.stdout
    assert "of no class, unknown" in process.stdout
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert found["outsiders"]["pictures"] == 3
    assert found["unknown"]["limit"] == 0.99
    assert (tmp_path / "report" / "novelty.png").stat().st_size > 1000


def test_unknown_folder_without_pictures_is_refused(with_reference, photos_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ("--data-dir", photos_dir, "--cache-dir", tmp_path / "cache")
    process = run_here(
        "evaluate.py", "--model", with_reference, *arguments, "--unknown", tmp_path / "empty"
    )
    assert process.returncode == 2
    assert "argument --unknown: expected a folder with pictures" in process.stderr
