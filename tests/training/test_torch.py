"""The same program on Keras's PyTorch backend: python -m pytest -m torch (pip install torch)."""

import json
import subprocess
import sys

import numpy as np
import pytest

import first_steps
from conftest import ROOT, draw_photos, network_file, run_script, users_environment

pytestmark = pytest.mark.torch
TORCH = {"KERAS_BACKEND": "torch"}


def test_the_first_losses_are_those_of_tensorflow(tmp_path):
    draw_photos(tmp_path / "photos" / "train", 60, size=40)
    arguments = [tmp_path / "photos", tmp_path / "cache", tmp_path / "weights.npz"]
    expected = first_steps.losses(*arguments)
    program = ROOT / "tests" / "first_steps.py"
    process = subprocess.run(
        [sys.executable, program, *map(str, arguments)],
        env=users_environment(**TORCH), capture_output=True, text=True, check=True,
    )  # fmt: skip
    got = json.loads(process.stdout)
    # From the third step on, rounding decides otherwise at a ReLU or a pooling: measured 8e-4.
    np.testing.assert_allclose(got[:2], expected[:2], rtol=1e-5)
    np.testing.assert_allclose(got, expected, rtol=1e-2)


def test_a_run_is_trained_resumed_exported_and_scored_by_both(photos_dir, tmp_path):
    cache = tmp_path / "cache"
    arguments = ["--data-dir", photos_dir, "--cache-dir", cache]
    process = run_script("train.py", *arguments, "--image-size", 32, "--epochs", 2,
                         "--output", tmp_path / "run", env=TORCH)  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "Device   cpu:0" in process.stderr or "Device   cuda:0" in process.stderr
    assert network_file(tmp_path / "run", ".tflite").is_file()
    scores = []
    for env in ({}, TORCH):
        process = run_script("evaluate.py", *arguments, "--model", tmp_path / "run", "--runtime",
                             "keras", "--split", "all", "--json", env=env)  # fmt: skip
        assert process.returncode == 0, process.stderr
        scores.append(json.loads(process.stdout))
    assert scores[0]["confusion_matrix"] == scores[1]["confusion_matrix"]
    assert scores[0]["log_loss"] == pytest.approx(scores[1]["log_loss"], rel=1e-4)
