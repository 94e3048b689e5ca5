"""A run that is killed at any moment and resumed ends as the run that was never killed.

KILLS=20 python -m pytest -m slow tests/test_kill.py        in full
"""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest

from conftest import ROOT, draw_photos, network_file, run_script, users_environment

KILLS = int(os.environ.get("KILLS", 3))
SEED = int(os.environ.get("KILL_SEED", 0))
EPOCHS = 4


def command(folder, name):
    """Trains on the photos of `folder` into a cache and a run of their own."""
    return [
        "train.py",
        "--data-dir",
        "photos",
        "--cache-dir",
        f"{name}-cache",
        "--image-size",
        32,
        "--epochs",
        EPOCHS,
        "--output",
        name,
    ]


def start(folder, *arguments):
    """Starts a script in a process group of its own, so that its children die with it."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / arguments[0]), *map(str, arguments[1:])],
        cwd=folder,
        env=users_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def outcome(run):
    """All that has to be the same: weights, history without seconds, scores, settings, answers."""
    with h5py.File(_weights(run)) as file:
        weights = {}
        file.visititems(
            lambda name, item: (
                weights.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    rows = [line.rpartition(",")[0] for line in (run / "history.csv").read_text().splitlines()]
    assert (run / "history.csv").read_text().splitlines()[0].endswith(",seconds")
    metrics = json.loads((run / "metrics.json").read_text())
    config = json.loads((run / "config.json").read_text())
    for of_its_own in ("cache_dir", "files"):
        del config[of_its_own]
    del metrics["training_seconds"]
    assert all(np.isfinite(each).all() for each in weights.values())
    return weights, rows, metrics, config, (run / "trained_on.npy").read_bytes()


def _weights(run):
    with zipfile.ZipFile(network_file(run)) as archive:
        return io.BytesIO(archive.read("model.weights.h5"))


def assert_same(got, expected):
    weights, *rest = got
    expected_weights, *expected_rest = expected
    assert weights.keys() == expected_weights.keys()
    for name, values in expected_weights.items():
        np.testing.assert_array_equal(weights[name], values, err_msg=name)
    assert rest == expected_rest


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """(folder, outcome, seconds) of a run that was never killed."""
    folder = tmp_path_factory.mktemp("kill")
    draw_photos(folder / "photos" / "train", 60)
    # The disk's cache is warm from here on.
    subprocess.run([sys.executable, "-c", "import tensorflow, keras"], capture_output=True)
    started = time.monotonic()
    process = run_script(*command(folder, "whole"), cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder, outcome(folder / "whole"), time.monotonic() - started


def stage(run):
    """What a killed process was doing, told by the files that it left."""
    if not run.exists():
        return "starting or caching"
    if list(run.glob("model*.keras")):
        return "exporting and scoring"
    return "training" if (run / "checkpoint.npz").exists() else "the first epoch"


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
def test_a_run_killed_at_a_random_moment_ends_as_one_that_was_not(reference, kill):
    folder, expected, seconds = reference
    name, rng = f"killed-{SEED}-{kill}", random.Random(f"{SEED} {kill}")
    run = folder / name
    next_command, moments, resumed = command(folder, name), [], ""
    while True:
        moment = rng.uniform(0, seconds)  # of each life anew; the second one is mostly the last
        process = start(folder, *next_command)
        try:
            _, errors = process.communicate(timeout=moment if len(moments) < 2 else 170)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            moments.append((round(moment, 1), stage(run)))
            if (run / "checkpoint.npz").exists() or (run / "metrics.json").exists():
                next_command = ["train.py", "--resume", name]  # else the same command starts again
            continue
        assert process.returncode == 0, errors
        resumed = errors
        break
    print("killed at", moments)
    if moments and moments[-1][1] == "training":
        assert "Resuming at epoch" in resumed or "Every epoch is done" in resumed
    assert_same(outcome(run), expected)
    assert not [path.name for path in run.iterdir() if path.name.startswith((".", "checkpoint"))]
    assert network_file(run, ".tflite").exists()
    finished = run_script("train.py", "--resume", name, cwd=folder)
    assert finished.returncode == 0 and "is finished" in finished.stderr


@pytest.mark.slow
def test_a_signal_stops_a_run_at_once_and_says_how_to_go_on_from_another_folder(reference):
    folder, expected, _ = reference
    # From another folder, relative paths of the run's settings are those of the first one.
    elsewhere, resume = folder / "photos", ("train.py", "--resume", "../stopped")
    for number, code, epoch, place, name, arguments, begins in (
        (signal.SIGINT, 130, 1, folder, "stopped", command(folder, "stopped"), "Run "),
        (signal.SIGTERM, 143, 3, elsewhere, "../stopped", resume, "Resuming at epoch [23] of 4"),
    ):
        process, said = start(place, *arguments), ""
        for line in process.stderr:
            said += line
            if line.startswith(f"epoch   {epoch}/"):
                break
        assert re.search(begins, said)  # what was told is kept
        sent = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate()
        assert time.monotonic() - sent < 10  # two, and room for a busy machine
        assert process.returncode == code
        assert f"To continue:  python train.py --resume {name}" in errors
        assert "Traceback" not in errors
    process = run_script(*resume, cwd=elsewhere)
    assert process.returncode == 0, process.stderr
    assert re.search("Resuming at epoch 4 of 4|Every epoch is done", process.stderr)
    assert_same(outcome(folder / "stopped"), expected)
    assert [path.name for path in elsewhere.iterdir()] == ["train"]


BUILD_CACHE = """
import sys
from pathlib import Path
from catdog.photos import cache, index
found = index.find("photos")
print("begun", flush=True)
images, _, _ = cache.images(found, 64, Path(sys.argv[1]))
assert len(images) == len(found.paths)
"""


def build_cache(folder, name):
    environment = users_environment(PYTHONPATH=str(ROOT))
    return subprocess.Popen(
        [sys.executable, "-c", BUILD_CACHE, name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def content(cache):
    """The pixels and the index of a cache."""
    with np.load(cache / "index.npz") as index:
        arrays = {name: index[name].tobytes() for name in index.files}
    return (cache / "images.npy").read_bytes(), arrays


def test_a_cache_that_is_killed_or_built_twice_at_a_time_ends_whole(tmp_path):
    draw_photos(tmp_path / "photos" / "train", 400)
    started = time.monotonic()
    with build_cache(tmp_path, "whole") as process:
        process.stdout.readline()
        begun = time.monotonic()
    seconds = time.monotonic() - begun
    assert process.returncode == 0 and begun > started
    (whole,) = (tmp_path / "whole").iterdir()
    rng = random.Random(SEED)
    for kill in range(KILLS):
        with build_cache(tmp_path, f"killed-{kill}") as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0, seconds))
            process.kill()
        left = tmp_path / f"killed-{kill}" / whole.name
        assert not left.exists() or content(left) == content(whole)
        two = [build_cache(tmp_path, f"killed-{kill}") for _ in range(2)]
        for process in two:
            process.communicate()
            assert process.returncode == 0
        assert content(left) == content(whole)
