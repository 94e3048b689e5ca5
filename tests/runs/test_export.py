"""The export to LiteRT: how good it must be, what a killed one leaves."""

import os
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
from catdog.runs import export, run
from catdog.runs.classifier import Classifier
from conftest import ROOT, users_environment

SIZE = 32
CONFIG = {"settings": {"arch": "plain"}, "classes": ["cat", "dog"], "score_size": SIZE}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)  # some others have logits so near 0 that eight bits turn them
    return model.build("plain", 2, None)


@pytest.fixture(scope="module", autouse=True)
def converted_once():
    """Keeps what the converter wrote: all tests give it the same network, and it takes seconds."""
    convert, written = export.convert, {}

    def convert_once(source, target, weights):
        if weights not in written:
            convert(source, target, weights)
            written[weights] = target.read_bytes()
        target.write_bytes(written[weights])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "convert", convert_once)
        yield


@pytest.fixture
def folder(tmp_path, network):
    run.create(tmp_path / "run", CONFIG)
    run.save_network(tmp_path / "run", network)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def photos(network):
    """(images, labels) that the untrained network gets right."""
    images = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)
    logits = network.predict_on_batch(images.astype(np.float32))[:, 0]
    return images, (logits > 0).astype(int)


def test_a_file_of_eight_bit_weights_is_small_and_as_good(folder, network, photos):
    prediction = model.for_prediction(network, SIZE)
    left = folder / f".0123abcd.{files._machine()}.999999999.model.tflite"
    left.touch()
    export.export(folder, prediction, *photos)
    config = run.read_config(folder)
    assert config["litert_weights"] == "eight-bit"
    assert config["litert_sha256"] == files.sha256(folder / "model.tflite")
    assert (folder / "model.tflite").stat().st_size < 0.3 * (folder / "model.keras").stat().st_size
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.keras",
        "model.tflite",
    }
    quick, slow = Classifier(folder), Classifier(folder, model.load, "keras")
    np.testing.assert_allclose(quick.logits(photos[0]), slow.logits(photos[0]), atol=0.2)


def test_a_worse_file_gets_float32_and_a_warning(folder, network, photos, monkeypatch, caplog):
    monkeypatch.setitem(export.MOST_WORSE, "log loss", -1.0)
    export.export(folder, model.for_prediction(network, SIZE), *photos)
    assert run.read_config(folder)["litert_weights"] == "float32"
    assert "eight-bit weights: log loss worse by" in caplog.text
    quick, slow = Classifier(folder), Classifier(folder, model.load, "keras")
    np.testing.assert_allclose(quick.logits(photos[0]), slow.logits(photos[0]), atol=1e-4)


def test_a_worse_accuracy_is_told(photos):
    labels = np.arange(1000) % 2
    expected = np.where(labels == 1, 3.0, -3.0)[:, None]
    assert export._worse("eight-bit", expected, expected, labels) is None
    got = expected.copy()
    got[:2] *= -1
    assert export._worse("eight-bit", expected, got, labels).startswith("accuracy worse by 0.0020")
    assert export._worse("eight-bit", expected, got * np.nan, labels)
    assert export._worse("float32", expected, expected + 1e-3, labels) == "logits differ by 0.001"


def test_without_the_litert_package_there_is_no_file(folder, network, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(UserError, match=r"cannot export to LiteRT: .*ai_edge_litert"):
        export.export(folder, model.for_prediction(network, SIZE), *photos)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.keras"}


CONVERT = """
import sys
from pathlib import Path
from catdog.runs import export
export.convert(Path(sys.argv[1], "model.keras"), Path(sys.argv[1], "new.tflite"), "eight-bit")
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
