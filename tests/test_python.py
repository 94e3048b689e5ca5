"""Use from other programs: what predict takes, the programs of docs/python.md, the command."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from catdog import Classifier, __main__
from catdog.errors import UserError
from catdog.photos.photo import PhotoError
from catdog.runs.run import WEIGHTS
from conftest import ROOT, draw_photos, run_script

PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)


@pytest.fixture(scope="module")
def ours():
    return Classifier()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/ with three JPEGs."""
    folder = tmp_path_factory.mktemp("python")
    draw_photos(folder / "drawn", 2)
    (folder / "photos").mkdir()
    for number, path in enumerate(sorted((folder / "drawn").iterdir())[:3]):
        Image.open(path).save(folder / "photos" / f"{number}.jpg", quality=95)
    return folder


class Tensor:
    """An array of another library."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __iter__(self):
        return map(Tensor, self.values)


def test_one_photo_in_any_form_gets_one_answer(ours, folder):
    path = folder / "photos" / "0.jpg"
    expected = ours.predict(path)
    image, content = Image.open(path), path.read_bytes()
    with open(path, "rb") as file:
        forms = (str(path), content, bytearray(content), memoryview(content), io.BytesIO(content),
                 file, image, np.asarray(image), Tensor(np.asarray(image)),
                 np.asarray(image.convert("RGBA")))  # fmt: skip
        for form in forms:
            got = ours.predict(form)
            assert got.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
            assert (got.label, got.unknown) == (expected.label, expected.unknown)
    assert expected["cat"] + expected["dog"] == pytest.approx(1)


def test_grey_arrays_of_both_shapes_are_taken(ours):
    grey = np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
    assert ours.predict(grey).probability == ours.predict(grey[..., None]).probability


def test_many_photos_are_a_list_with_errors_in_it(ours, folder):
    path = folder / "photos" / "0.jpg"
    for many in ([path, "no.jpg", path], np.array([path, "no.jpg", path], object),
                 np.array([path, "no.jpg", path], str), (path, b"", 7)):  # fmt: skip
        first, broken, *_ = ours.predict(many)
        assert first.error is None and first.novelty > 0
        assert isinstance(broken.error, PhotoError) and broken.label is None and not broken
    assert ours.predict([]) == []
    arrays = np.zeros((3, 20, 30, 3), np.uint8)
    assert [each.unknown for each in ours.predict(arrays)] == [True] * 3


@pytest.mark.parametrize(
    "source, words",
    [
        ("https://example.org/cat.jpg", "download the photo"),
        ("nope.jpg", "."),
        (np.zeros((4, 4, 3), np.float32), "expected an array of uint8"),
        (np.zeros((4, 4, 7), np.uint8), "expected an array of uint8"),
        (b"no photo", "."),
        (None, "expected a photo, got NoneType"),
        (io.StringIO("text"), "expected a file opened as rb"),
    ],
)
def test_one_photo_that_cannot_be_read_raises(ours, source, words):
    with pytest.raises(PhotoError, match=words):
        ours.predict(source)


def test_a_picture_of_neither_is_unknown_unless_switched_off(ours):
    grey = np.full((300, 300, 3), 128, np.uint8)
    found = ours.predict(grey)
    assert found.unknown and found.label is None and found.novelty > 0.99
    assert Classifier(unknown_at=1).predict(grey).label in ("cat", "dog")


def test_the_command_prints_what_predict_py_prints(folder):
    arguments = [folder / "photos", folder / "gone.jpg"]
    script = run_script("predict.py", "--model", WEIGHTS, *arguments)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "catdog", *map(str, arguments)]
    got = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert got.stdout == script.stdout and got.stdout.count("\n") == 3
    assert got.returncode == script.returncode == 1 and "gone.jpg: " in got.stderr


def test_the_command_takes_another_run(tmp_path):
    with pytest.raises(UserError, match=r"--model: expected a run directory with a config\.json"):
        __main__.main(["--model", str(tmp_path), "photo.jpg"])


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_of_the_docs_run_from_any_folder(number, folder):
    (folder / "program.py").write_text(PROGRAMS[number])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    if number in (0, 3):
        assert process.stdout.count("jpg") == 3
