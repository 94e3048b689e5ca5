"""The export to LiteRT: how good it must be, what a killed one leaves."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import model
from catdog import files
from catdog.backend import keras
from catdog.errors import UserError
from catdog.runs import answer, calibration, export, novelty
from catdog.runs.classifier import Classifier
from catdog.runs.run import Run
from conftest import ROOT, make_run, network_file, users_environment

SIZE = 32
CONFIG = {"settings": {"arch": "plain"}, "classes": ["cat", "dog"], "score_size": SIZE}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)  # some others have logits so near 0 that eight bits turn them
    return model.build("plain", 2, None)


class Drawn:
    """As a `data.Dataset`: noise, of which the untrained network gets half of each class right."""

    def __init__(self, network):
        rng = np.random.default_rng(0)
        levels = rng.integers(0, 256, (120, 1, 1, 3))
        self.images = rng.integers(0, 60, (120, SIZE, SIZE, 3)) + levels * 3 // 4
        self.images = self.images.astype(np.uint8)
        logits = network.predict_on_batch(self.images.astype(np.float32))[:, 0]
        self.labels = (logits > np.median(logits)).astype(int)
        self.splits = {"train": np.arange(60), "validation": np.arange(60, 120)}

    def batches(self, members, size=64):
        for start in range(0, len(members), size):
            yield self.images[members[start : start + size]]


@pytest.fixture(scope="module")
def dataset(network):
    return Drawn(network)


@pytest.fixture
def folder(tmp_path, network):
    make_run(tmp_path / "run", CONFIG)
    Run(tmp_path / "run").save_network(network)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, network, dataset):
    """A run that was exported, and then once more."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    make_run(folder, CONFIG)
    Run(folder).save_network(network)
    left = folder / f".0123abcd.{files._machine()}.999999999.export"
    left.mkdir()
    for _ in range(2):
        assert export.export(Run(folder), network, dataset) == "eight-bit"
    return folder


def test_both_files_have_names_of_their_own_and_sums(exported):
    config = Run(exported).config
    assert config["litert_weights"] == "eight-bit"
    assert config["answer"] == {"photos": 60, "scores": 60}
    for name, digest in config["files"].items():
        assert files.sha256(exported / name) == digest
    assert {path.name for path in exported.iterdir()} == {"config.json", *config["files"]}
    litert, whole = network_file(exported, ".tflite"), network_file(exported)
    assert litert.stat().st_size < 0.4 * whole.stat().st_size


def test_every_file_answers_the_same_and_a_mirror_image_as_its_photo(exported, dataset):
    quick, slow = Classifier(exported), Classifier(exported, model.load, "keras")
    images = dataset.images[:5]
    answers = [
        each.outputs(turned) for each in (quick, slow) for turned in (images, mirror(images))
    ]
    for name, most in (("probabilities", 0.02), ("novelty", 0.2)):
        for got, expected in itertools.pairwise(answers):
            np.testing.assert_allclose(got[name], expected[name], atol=most)
    straight, mirrored = answers[:2]
    np.testing.assert_allclose(straight["probabilities"], mirrored["probabilities"], atol=1e-3)
    np.testing.assert_allclose(straight["evidence"], mirrored["evidence"][:, :, ::-1], atol=0.1)


def mirror(images):
    return np.ascontiguousarray(images[:, :, ::-1])


def test_novelty_counts_validation_photos_by_what_litert_computes(exported, dataset):
    members = dataset.splits["validation"]
    got = np.sort(Classifier(exported).outputs_of(dataset, members)["novelty"])[::-1]
    expected = novelty.table(60)[1:]  # each is as high as itself
    np.testing.assert_allclose(got, expected, atol=0.04)
    assert (np.abs(got - expected) < 1e-3).mean() > 0.7


def test_without_mirror_a_run_answers_for_the_photo_alone(network, dataset):
    graph = answer.Graph(network, SIZE, mirror=False)
    images = dataset.images[:3].astype(np.float32)
    got = graph.answering.predict_on_batch(images)["probabilities"]
    logits = network.predict_on_batch(images)
    np.testing.assert_allclose(got, calibration.probabilities_from_logits(logits), atol=1e-5)


def test_an_export_that_is_killed_leaves_the_run_as_it_was(
    exported, network, dataset, tmp_path, no_export
):
    folder = shutil.copytree(exported, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        export.export(Run(folder), network, dataset)
    config = Run(folder).config
    assert all((folder / name).read_bytes() == before[name] for name in config["files"])
    assert Classifier(folder).runtime == "LiteRT"


def test_without_litert_the_run_answers_with_keras(folder, network, dataset, no_export, caplog):
    assert export.export(Run(folder), network, dataset) is None
    assert "could not write model.tflite, so predict.py starts more slowly: not in" in caplog.text
    classifier = Classifier(folder, model.load)
    assert classifier.runtime == "Keras" and classifier.run.novelty_photos == 60
    assert classifier.outputs(dataset.images[:2])["novelty"].shape == (2,)


def test_a_network_of_nan_is_refused_by_export_and_classifier(folder, dataset, no_export):
    broken = model.build("plain", 2, None)
    broken.layers[-1].bias.assign([np.nan])
    with pytest.raises(UserError, match="numbers that are not finite"):
        export.export(Run(folder), broken, dataset)
    Run(folder).save_network(broken)
    with pytest.raises(UserError, match="expected finite probabilities, got nan"):
        Classifier(folder, model.load).outputs(dataset.images[:1])


# --- Eight bits or float32 ------------------------------------------------------------------------


def logits_of(right):
    """Logits of class 1 where `right`; all labels are 1."""
    return np.where(right, 3.0, -3.0)[:, None]


def test_two_photos_of_449_do_not_decide_for_float32():
    labels = np.ones(449, int)
    right = np.arange(449) >= 40
    two_lost = right & (np.arange(449) < 447)
    assert export.worse("eight-bit", logits_of(right), logits_of(two_lost), labels) is None


def test_what_is_hardly_chance_decides_and_is_told():
    labels, number = np.ones(2000, int), np.arange(2000)
    before = logits_of(number >= 40)
    reason = export.worse("eight-bit", before, logits_of((number >= 40) & (number < 1992)), labels)
    assert reason.startswith("8 labels become wrong, 0 right, on 2,000 photos")
    reason = export.worse("eight-bit", before, 0.7 * before, labels)
    assert reason.startswith("log loss worse by 0.0")
    mixed = logits_of(((number >= 40) & (number < 1990)) | (number < 10))  # 10 lost, 10 won
    assert export.worse("eight-bit", before, mixed, labels) is None
    assert export.worse("eight-bit", before, before * np.nan, labels)


def test_few_photos_still_tell_a_broken_file():
    labels = np.array([0, 1, 0, 1])
    expected = np.array([[-1.0], [1.0], [-1.2], [0.9]])
    turned = np.array([[-1.0], [1.0], [-1.2], [-9.0]])
    assert "probabilities change by" in export.worse("eight-bit", expected, turned, labels)
    assert export.worse("float32", expected, expected + 0.1, labels).startswith("differs by 0.0")
    assert export.worse("float32", expected, expected + 1e-4, labels) is None


CONVERT = """
import sys
from pathlib import Path
from catdog.runs import export
with export.Converter() as convert:
    convert(Path(sys.argv[1], "model.keras"), Path(sys.argv[1], "new.tflite"), "eight-bit")
"""


def children(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def test_the_exporter_ends_with_its_parent(tmp_path):
    os.mkfifo(tmp_path / "model.keras")  # the exporter waits for it, and never ends by itself
    environment = users_environment(PYTHONPATH=str(ROOT))
    parent = subprocess.Popen(
        [sys.executable, "-c", CONVERT, tmp_path], env=environment, stderr=subprocess.DEVNULL
    )
    started = time.monotonic()
    while not (found := children(parent.pid)):
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    time.sleep(1)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    killed = time.monotonic()
    while any(os.path.exists(f"/proc/{pid}") for pid in found):
        assert time.monotonic() - killed < 20
        time.sleep(0.05)
