"""The benchmarks' own arithmetic, photos and files; what they measure is theirs to tell."""

import os

import keras
import pytest

from benchmarks import measuring, predict, step
from catdog.errors import UserError
from catdog.photos import drawings as demo
from catdog.photos import index as layouts
from conftest import draw_photos


def test_without_photos_the_drawings_of_the_demo_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "make_demo", lambda folder, progress: draw_photos(folder, 3))
    (tmp_path / "tmp").mkdir()
    folder, found, words = measuring.find_photos(None)
    assert folder == tmp_path / "tmp" / "demo"
    assert len(found.paths) == 6 and words == "6 drawings of --demo"


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(UserError, match="--data-dir: expected labelled photos"):
        measuring.find_photos(tmp_path)


def test_photos_are_multiplied_under_other_names(tmp_path):
    found = layouts.find(draw_photos(tmp_path / "photos", 5))
    measuring.copies(found, 25, tmp_path / "copies", sources=10)
    copies = layouts.find(tmp_path / "copies")
    assert len(copies.paths) == 25 and set(copies.classes) == set(found.classes)
    files = {os.stat(copies.root / path).st_ino for path in copies.paths}
    assert len(files) == 10


def test_ratios_are_taken_within_a_turn():
    slow_then_fast = [10.0, 1.0, 4.0]
    assert measuring.ratio(slow_then_fast, [5.0, 0.5, 1.0]) == 2
    assert measuring.medians({"a": [3, 1, 2]}) == {"a": 2}


def test_a_table_replaces_what_stands_between_its_marks(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("above\n<!-- a -->\nold\n<!-- end of a -->\nbelow\n")
    measuring.put(path, "a", measuring.table(["x", "y"], [[1234.5, None]]))
    assert path.read_text() == (
        "above\n<!-- a -->\n| x | y |\n| --- | --- |\n| 1,234 |  |\n<!-- end of a -->\nbelow\n"
    )
    with pytest.raises(UserError, match="expected the marks"):
        measuring.put(path, "b", "")


@pytest.mark.parametrize("program", [predict.KERAS_ONE, predict.KERAS_MANY])
def test_the_keras_scripts_are_python(program):
    compile(program, "script", "exec")


def test_operations_are_those_counted_by_hand():
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(5, 3, padding="same"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    first, second, dense = 8 * 8 * 4 * 27, 4 * 4 * 5 * 36, 10
    assert step.multiplications(network) == [first, second, dense]
    assert step.step_operations(network, 7) == 7 * 2 * (2 * first + 3 * (second + dense))
    large = 4 * (27 * 4 * 4 + 36 * 5 * 5)
    assert step.muon_operations(network, 3) == large + 20 * (4**3 + 5**3)
