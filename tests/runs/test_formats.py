"""Exports to other runtimes, whose packages are optional: converters and runtimes stand in here."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import model
from catdog.errors import UserError
from catdog.runs import formats, novelty
from catdog.runs.run import WEIGHTS

CLASSES = ["cat", "dog"]
OUTPUTS = {"probabilities": np.array([[0.2, 0.8]]), "evidence": np.full((1, 2, 2, 1), 2.0)}


def network(export=lambda path, **options: Path(path).write_text("network")):
    return SimpleNamespace(
        input_shape=(None, 8, 8, 3), export=export, predict_on_batch=lambda photos: OUTPUTS
    )


@pytest.fixture
def installed(monkeypatch):
    """All packages, and an ONNX runtime that answers as `network` does."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(formats.RUN, "onnx", lambda path, photos: dict(OUTPUTS))
    monkeypatch.setitem(formats.NAME, "onnx", lambda path, classes: None)


def test_missing_package_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, packages in (
        ("onnx", "onnx tf2onnx"),
        ("openvino", "openvino"),
        ("coreml", "coremltools"),
    ):
        with pytest.raises(UserError, match=f"pip install {packages}$"):
            formats.export_as(network(), tmp_path / f"x{formats.SUFFIXES[name]}", name, CLASSES)


def test_export_is_compared_and_written(installed, tmp_path):
    assert formats.export_as(network(), tmp_path / "new" / "cats.onnx", "onnx", CLASSES) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cats.onnx"]


def test_export_without_a_runtime_is_written_uncompared(installed, monkeypatch, tmp_path):
    monkeypatch.setitem(formats.RUN, "onnx", lambda path, photos: None)
    assert formats.export_as(network(), tmp_path / "cats.onnx", "onnx", CLASSES) is None
    assert (tmp_path / "cats.onnx").exists()


@pytest.mark.parametrize("wrong", [2.01, np.nan])
def test_export_that_answers_differently_is_refused(wrong, installed, monkeypatch, tmp_path):
    different = {**OUTPUTS, "probabilities": np.array([[wrong, 0.8]])}
    monkeypatch.setitem(formats.RUN, "onnx", lambda path, photos: different)
    with pytest.raises(UserError, match="differs from Keras by"):
        formats.export_as(network(), tmp_path / "cats.onnx", "onnx", CLASSES)
    assert not list(tmp_path.iterdir())


def test_converter_that_fails_gives_one_line(installed, tmp_path):
    def export(path, **options):
        raise ValueError("no such\nlayer")

    with pytest.raises(UserError, match=r"cannot export .*cats\.onnx: no such layer$"):
        formats.export_as(network(export), tmp_path / "cats.onnx", "onnx", CLASSES)
    assert not list(tmp_path.iterdir())


def test_other_suffix_and_file_that_exists_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.xml, got cats\.onnx"):
        formats.export_as(network(), Path("cats.onnx"), "openvino", CLASSES)
    (tmp_path / "cats.onnx").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        formats.export_as(network(), tmp_path / "cats.onnx", "onnx", CLASSES)
    assert (tmp_path / "cats.onnx").read_text() == "mine"


@pytest.mark.formats
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_other_runtimes_say_unknown_from_their_own_outputs(format, tmp_path):
    graph = model.load(WEIGHTS)
    path = tmp_path / f"cats{formats.SUFFIXES[format]}"
    assert formats.export_as(graph.answering, path, format, CLASSES) < 1e-3
    photos = np.random.default_rng(0).integers(0, 256, (3, 200, 200, 3)).astype(np.float32)
    photos[0] = 128  # grey: of neither
    got, expected = formats.RUN[format](path, photos), graph.answering.predict_on_batch(photos)
    assert got["novelty"].shape == (3,) and got["probabilities"].shape == (3, 2)
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-3)
    assert novelty.is_unknown(got["novelty"])[0]
    np.testing.assert_allclose(got["novelty"], expected["novelty"], atol=0.01)
