"""Photos that are called unknown, by the scripts."""

import json
import shutil

import numpy as np
import pytest

import model
from catdog.photos import drawings
from catdog.runs import answer, novelty
from catdog.runs.classifier import Classifier
from catdog.runs.run import Run
from conftest import make_run, run_here

ALMOST_ALL = ("--unknown-at", 0.0001)  # call nearly every photo unknown


def images_of(count, size, seed=9):
    rngs = [np.random.default_rng((seed, number)) for number in range(count)]
    return np.stack([np.asarray(drawings.draw(i % 2, rng, size)) for i, rng in enumerate(rngs)])


@pytest.fixture(scope="module")
def with_reference(trained):
    """The trained run: with its 20 validation photos a novelty reaches 0.86."""
    assert novelty.highest(Classifier(trained[0]).run.novelty_photos) > 0.8
    return trained[0]


@pytest.fixture
def photo(tmp_path):
    drawings.draw(0, np.random.default_rng(5), 96).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def predict(run, *arguments):
    process = run_here("predict.py", "--model", run, *arguments)
    assert process.returncode == 0, process.stderr
    return process


def test_unknown_photo_has_its_novelty_instead_of_a_label(with_reference, photo):
    name, word, probability, value = (
        predict(with_reference, photo, *ALMOST_ALL).stdout.strip().split("\t")
    )
    assert (name, word, probability) == (str(photo), "unknown", "")
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


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A run as the release before wrote it: logits, and no constants for an answer."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    network = model.build("plain", 2, None)
    make_run(folder, {"settings": {}, "classes": ["cat", "dog"], "score_size": 32})
    Run(folder).save_network(network)
    answer.Graph(network, 32, mirror=False).features.export(
        folder / "model.tflite", format="litert", verbose=False
    )
    return folder


def test_a_run_of_an_earlier_release_predicts_without_unknown(earlier, photo):
    process = predict(earlier, photo, "--json")
    line = json.loads(process.stdout)
    assert line["label"] is not None and not line.get("unknown")
    assert f"python model.py --export litert --model {earlier}" in process.stderr
    quick, slow = Classifier(earlier), Classifier(earlier, model.load, "keras")
    images = images_of(3, 32)
    for name in ("probabilities", "evidence"):
        np.testing.assert_allclose(
            quick.outputs(images)[name], slow.outputs(images)[name], atol=1e-4
        )


def test_a_limit_out_of_reach_is_refused_not_ignored(with_reference, earlier, photo):
    for folder, words in ((with_reference, "expected at most 0."), (earlier, "with novelty")):
        process = run_here("predict.py", "--model", folder, photo, "--unknown-at", 0.99)
        assert process.returncode == 2
        assert "argument --unknown-at: " in process.stderr and words in process.stderr


def test_training_says_which_limit_would_work(trained):
    assert "predict.py --unknown-at 0." in trained[1].stderr


def test_both_runtimes_have_the_same_novelty(trained):
    litert, keras = Classifier(trained[0]), Classifier(trained[0], model.load, "keras")
    images = images_of(6, litert.score_size)
    expected = keras.outputs(images)["novelty"]
    assert expected.shape == (6,)
    assert np.abs(litert.outputs(images)["novelty"] - expected).max() < 0.2


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
