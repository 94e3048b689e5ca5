"""The benchmarks' own arithmetic, photos and files; what they measure is in docs/BENCHMARKS.md."""

import argparse
import os
import time

import keras
import numpy as np
import pytest

from benchmarks import accuracy, gpu, measuring, predict, step
from catdog import backend
from catdog.errors import UserError
from catdog.photos import drawings, index
from catdog.runs.run import WEIGHTS
from conftest import draw_photos


def test_without_photos_the_drawings_of_the_demo_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    monkeypatch.setattr(drawings, "make_demo", lambda folder, progress: draw_photos_in(folder))
    folder, found, words = measuring.find_photos(None)
    assert folder == tmp_path / "tmp" / "demo"
    assert len(found.paths) == 6 and words == "6 drawings of --demo"


def draw_photos_in(folder):
    (measuring.ROOT / folder).mkdir()
    return draw_photos(measuring.ROOT / folder, 3)


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(UserError, match="--data-dir: expected labelled photos"):
        measuring.find_photos(str(tmp_path))


def test_photos_are_multiplied_under_other_names(tmp_path):
    found = index.find(draw_photos(tmp_path / "photos", 5))
    measuring.copies(found, 25, tmp_path / "copies", sources=10)
    copies = index.find(tmp_path / "copies")
    assert len(copies.paths) == 25 and set(copies.classes) == set(found.classes)
    files = {os.stat(copies.root / path).st_ino for path in copies.paths}
    assert len(files) == 10


def test_ratios_are_taken_within_a_turn():
    slow_then_fast = [10.0, 1.0, 4.0]
    assert measuring.ratio(slow_then_fast, [5.0, 0.5, 1.0]) == 2
    assert measuring.medians({"a": [3, 1, 2]}) == {"a": 2}


def test_functions_alternate_and_first_calls_do_not_count():
    calls = []
    ways = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert measuring.in_turns(ways, 60, turns=2) == {"a": [3, 5], "b": [4, 6]}
    assert calls == ["a", "b"] * 3


def test_no_function_and_no_turn_begins_without_time_left():
    ways = {name: lambda: time.sleep(0.02) for name in "abc"}
    results = measuring.in_turns(ways, 0.01, turns=5)
    assert results == {"a": [None], "b": [None]}  # the least that can be compared


def test_seconds_on_the_command_line_replace_those_of_quick():
    parser = measuring.parser("", "step", seconds=300)

    def seconds(*argv):
        return measuring.Budget(parser.parse_args(argv)).seconds

    assert [seconds(), seconds("--quick")] == [300, measuring.QUICK]
    assert seconds("--quick", "--seconds", "5") == 5


def test_other_programs_hide_what_tensorflow_prints(monkeypatch):
    monkeypatch.setenv(backend.LOG_LEVEL, "3")
    monkeypatch.setattr(backend, "ASKED_FOR", False)
    assert backend.LOG_LEVEL not in measuring.environment()
    monkeypatch.setattr(backend, "ASKED_FOR", True)
    assert measuring.environment(A="b")[backend.LOG_LEVEL] == "3"


def test_a_table_replaces_what_stands_between_its_marks(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("above\n<!-- a -->\nold\n<!-- end of a -->\nbelow\n")
    measuring.put(path, "a", measuring.table(["x", "y"], [[1234.5, None]]))
    assert path.read_text() == (
        "above\n<!-- a -->\n| x | y |\n| --- | --- |\n| 1,234 |  |\n<!-- end of a -->\nbelow\n"
    )
    with pytest.raises(UserError, match="expected the marks"):
        measuring.put(path, "b", "")


def test_results_are_written_as_text_json_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    args = argparse.Namespace(docs=False, name="chart")
    save = measuring.bars("Rates", "photos/s", {"a": 1.0, "b": 200.0})
    measuring.write("step", args, ["text"], {"figures": np.arange(2)}, save)
    written = {path.name: path.read_bytes() for path in (tmp_path / "tmp/benchmarks").iterdir()}
    assert written["chart.png"].startswith(b"\x89PNG") and b'"figures"' in written["chart.json"]
    assert capsys.readouterr().out.endswith("\n\ntext\n")


def test_the_epochs_of_a_training_run_are_timed_as_they_end(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("""
import pathlib, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
run.mkdir()
for rows in ("1,0.5", "1,0.5\\n2,0.95"):
    time.sleep(0.3)
    (run / "history.csv").write_text(f"epoch,val_accuracy\\n{rows}\\n")
time.sleep(0.3)
(run / "metrics.json").write_text('{"test": {}}')
""")
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    fast = accuracy.run_fast(tmp_path, tmp_path, [])
    (first, _), (second, _) = fast["points"]
    assert [accuracy for _, accuracy in fast["points"]] == [0.5, 0.95]
    assert 0.3 <= first < first + 0.2 < second < second + 0.2 < fast["seconds"]
    assert accuracy.reached(fast["points"]) == second
    assert accuracy.reached(fast["points"][:1]) is None


@pytest.mark.parametrize("program", [predict.KERAS_ONE, predict.KERAS_MANY])
def test_the_keras_scripts_are_python(program):
    compile(program, "script", "exec")


def test_a_network_file_compared_with_itself_changes_no_label(tmp_path):
    folder = draw_photos(tmp_path, 2)
    args = measuring.parser("", "predict", seconds=60).parse_args([])
    paths = sorted(map(str, folder.iterdir()))
    text, result, _ = predict.compare(WEIGHTS, WEIGHTS, paths, args)
    assert (result["photos"], result["largest_difference"], result["labels_changed"]) == (4, 0, 0)
    assert len(text) == 2


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


def test_the_step_is_measured_in_the_precision_of_training(monkeypatch):
    network = None

    def build(settings, *args, **kwargs):
        nonlocal network
        network = train_build(settings, *args, **kwargs)
        return network

    train_build = step.train.build
    monkeypatch.setattr(step.train, "build", build)
    monkeypatch.setattr(step, "precision", lambda: "mixed_bfloat16")
    step.make_step(48, batch=2)
    assert network.network.layers[2].dtype_policy.name == "mixed_bfloat16"
    step.make_step(48, batch=2, policy="float32")
    assert network.network.layers[2].dtype_policy.name == "float32"


def test_the_gpu_benchmark_measures_steps_and_waiting(small_plain, monkeypatch):
    monkeypatch.setattr(gpu, "EPOCH", 4)
    found = gpu.measure(32, steps=2, batch_size=8, seconds=0)
    assert found["device"].startswith("cpu") and found["operations"] > 0
    assert found["first"] > found["step"] > 0 and 0 <= found["waiting"] < 1
    assert gpu.product_rate(64) > 0
