"""Both backends, several devices and several machines give what one device gives."""

import csv
import importlib.metadata
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

import data
import first_steps
from catdog import backend
from catdog.errors import UserError
from catdog.training import devices
from catdog.training.settings import Settings
from conftest import ROOT, draw_photos, users_environment

JAX = {"KERAS_BACKEND": "jax"}
TWO_DEVICES = {**JAX, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
# Two processes sum in another order than one, in float32, and every step of training makes that
# difference larger; measured after ten steps: 3e-7.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 cats and 60 dogs in `photos`, of which 86 are for training, 22 for validation."""
    folder = tmp_path_factory.mktemp("distribution")
    draw_photos(folder / "photos" / "train", 60, size=40)
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return data.load(folder / "photos", first_steps.SETTINGS.score_size, folder / "cache")


def start(*arguments, program=(ROOT / "train.py",), env=JAX, **options):
    """Start a program, by default `train.py` with JAX."""
    command = [sys.executable, *map(str, program), *map(str, arguments)]
    return subprocess.Popen(
        command, env=users_environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, **options,
    )  # fmt: skip


def small(kind="one", script="train.py"):
    return (ROOT / "tests" / "train_small.py", kind, script)


def new_run(folder, name):
    """The arguments for a run of `first_steps.SETTINGS`."""
    return ["--data-dir", folder / "photos", "--cache-dir", folder / "cache", "--batch-size", 16,
            "--output", folder / name]  # fmt: skip


def free_addresses(count):
    """HOST:PORT of ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def end(process, seconds=60):
    """(exit code, stdout, stderr) of a process, which must end by itself within the `seconds`."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def finish(process):
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out, err


def losses(run):
    """(epochs, 4) of loss, accuracy, loss and accuracy of validation."""
    with open(run / "history.csv") as file:
        rows = list(csv.DictReader(file))
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return np.array([[float(row[name]) for name in names] for row in rows])


# --- One device -----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [None, object()])
def test_memory_is_kept_only_where_the_c_library_can(monkeypatch, library):
    asked = []
    glibc = types.SimpleNamespace(mallopt=lambda *option: asked.append(option))
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: library or glibc)
    devices.keep_freed_memory()
    assert asked == ([] if library else [(-4, 0), (-1, 2**31 - 1)])


def test_one_device_is_trained_without_a_strategy():
    with devices.scope():
        assert not tf.distribute.has_strategy()
    assert (devices.processes(), devices.index()) == (1, 0)


def test_a_batch_is_one_that_the_devices_can_share(monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: ["gpu:0", "gpu:1", "gpu:2"])
    assert devices.divisible(128) == 126
    devices.check_batch_size(126)
    for size in (128, 2, 0):
        with pytest.raises(UserError, match="expected a batch of a multiple of 3 photos"):
            devices.check_batch_size(size)


def test_a_backend_that_sees_a_gpu_is_named(monkeypatch):
    assert devices.backend_with_a_gpu() is None  # without a sign of a GPU, nothing is run
    monkeypatch.setattr(devices.shutil, "which", lambda name: name)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    for sees in ("torch", "jax"):
        programs = {name: "pass" if name == sees else "assert False" for name in ("torch", "jax")}
        monkeypatch.setattr(devices, "SEES_A_GPU", programs)
        assert devices.backend_with_a_gpu() == sees


# --- Backends -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_backends_have_the_same_losses_from_the_same_weights(folder, dataset):
    arguments = [folder / "photos", folder / "cache", folder / "weights.npz"]
    of_tensorflow = first_steps.losses(*arguments)
    program = ROOT / "tests" / "first_steps.py"
    of_jax = json.loads(finish(start(*arguments, program=(program,)))[0])
    assert len(set(of_tensorflow)) == 4
    np.testing.assert_allclose(of_jax, of_tensorflow, rtol=TOLERANCE)


@pytest.mark.slow
def test_a_run_saved_by_one_backend_is_scored_by_the_other_with_the_same_result(
    folder, dataset, of_jax, of_tensorflow
):
    for run in (of_jax, of_tensorflow):
        scores = []
        for env in ({}, JAX):
            arguments = [
                *("--model", run, "--data-dir", folder / "photos", "--cache-dir", folder / "cache"),
                *("--runtime", "keras", "--split", "all", "--json"),
            ]
            process = start(*arguments, program=small(script="evaluate.py"), env=env)
            scores.append(json.loads(finish(process)[0]))
        assert scores[0]["confusion_matrix"] == scores[1]["confusion_matrix"]
        assert scores[0]["log_loss"] == pytest.approx(scores[1]["log_loss"], rel=TOLERANCE)


@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_tensorflow_leaves_the_gpus_to_another_backend(name, monkeypatch):
    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *those: hidden.append(those))
    monkeypatch.setattr(backend.keras.backend, "backend", lambda: name)
    backend._load.__wrapped__("tensorflow")
    assert hidden == ([] if name == "tensorflow" else [([], "GPU")])


def test_versions_are_known_where_tensorflow_is_installed_as_tensorflow_cpu(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    versions = backend.versions()
    assert versions["tensorflow"] == tf.__version__ and versions["backend"] == "tensorflow"


@pytest.mark.slow
def test_versions_are_asked_without_a_word_of_tensorflow():
    program = "from catdog import backend; print(backend.versions()['backend'])"
    assert finish(start(program=("-c", program), cwd=ROOT)) == ("jax\n", "")


@pytest.mark.slow
def test_jax_trains_and_scores_where_tensorflow_is_missing(folder, dataset, tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'tensorflow'\", name='tensorflow')"
    )
    process = start(*new_run(folder, "alone"), "--image-size", 32, "--epochs", 1,
                    env={**JAX, "PYTHONPATH": str(tmp_path)})  # fmt: skip
    out, err = finish(process)
    assert "accuracy" in out and "model.tflite" in err and "Traceback" not in err
    assert np.isfinite(losses(folder / "alone")).all()


# --- Devices and machines -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_jax(folder):
    """A run of one process on one device."""
    finish(start(*new_run(folder, "jax"), program=small()))
    return folder / "jax"


@pytest.fixture(scope="module")
def of_tensorflow(folder):
    finish(start(*new_run(folder, "tensorflow"), program=small("keras-norm"), env={}))
    return folder / "tensorflow"


@pytest.mark.slow
def test_two_devices_of_tensorflow_give_the_losses_of_one(folder, of_tensorflow):
    _, err = finish(start(*new_run(folder, "mirrored"), program=small("two"), env={}))
    assert "and 1 more of the same kind" in err
    one, two = losses(of_tensorflow), losses(folder / "mirrored")
    np.testing.assert_allclose(two[0], one[0], rtol=TOLERANCE)
    # Muon's Gram matrix makes differences of rounding larger; measured after ten steps: 2e-4.
    np.testing.assert_allclose(two[1:], one[1:], rtol=1e-3)


@pytest.mark.slow
def test_two_devices_of_jax_give_the_losses_of_one(folder, of_jax):
    _, err = finish(start(*new_run(folder, "two-devices"), program=small(), env=TWO_DEVICES))
    assert "and 1 more of the same kind" in err
    np.testing.assert_allclose(losses(folder / "two-devices"), losses(of_jax), rtol=TOLERANCE)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_the_first_alone_writes(folder, of_jax, tmp_path):
    run = folder / "two-processes"
    hosts = ["--hosts", ",".join(free_addresses(2)), "--rank"]
    first = start(*new_run(folder, "two-processes"), *hosts, 0, program=small())
    *arguments, _ = new_run(folder, "unused")
    second = start(*arguments, tmp_path / "unused", *hosts, 1, program=small(), cwd=tmp_path)
    (out, err), (nothing, told) = finish(first), finish(second)
    np.testing.assert_allclose(losses(run), losses(of_jax), rtol=TOLERANCE)
    assert out.startswith("accuracy") and "on 2 machines" in err
    assert nothing == "" and list(tmp_path.iterdir()) == []
    assert "Process 1 of 2" in told and "epoch" not in told


def wait_for_the_first_epoch(run, *processes):
    """Wait for the first history of a run; if it does not come, end its processes and fail."""
    deadline = time.monotonic() + 500
    while not (run / "history.csv").exists():
        if processes[0].poll() is not None or time.monotonic() > deadline:
            for process in processes:
                process.kill()
            pytest.fail(processes[0].communicate()[1])
        time.sleep(0.1)


@pytest.fixture(scope="module")
def killed(folder):
    """(run, exit code, stderr, seconds) of process 0 after process 1 was killed in an epoch."""
    run = folder / "killed"
    # A small network: JAX compiles the default one for half a minute.
    new = ["--data-dir", folder / "photos", "--cache-dir", folder / "cache", "--arch", "classic",
           "--image-size", 16, "--batch-size", 16, "--epochs", 4000, "--output", run,
           "--hosts", ",".join(free_addresses(2)), "--rank"]  # fmt: skip
    first, second = start(*new, 0), start(*new, 1)
    wait_for_the_first_epoch(run, first, second)
    killed = time.monotonic()
    second.kill()
    code, _, err = end(first, 600)
    second.communicate()
    return run, code, err, time.monotonic() - killed


@pytest.mark.slow
def test_a_process_killed_within_an_epoch_ends_the_others_within_a_minute(killed):
    _, code, err, seconds = killed
    assert code == 2 and seconds < 60
    assert err.splitlines()[-1].startswith(f"train.py: error: {devices.LOST}")
    assert "If one process fails, the others stop within a minute" in err


@pytest.mark.slow
def test_a_run_that_lost_a_process_is_resumed_by_all(killed, tmp_path):
    run = killed[0]
    done = len(losses(run))
    config = json.loads((run / "config.json").read_text())
    config["settings"]["epochs"] = done + 1
    (run / "config.json").write_text(json.dumps(config))
    hosts = ["--hosts", ",".join(free_addresses(2)), "--rank"]
    first = start("--resume", run, *hosts, 0)
    second = start("--resume", "it-needs-none", *hosts, 1, cwd=tmp_path)
    _, err = finish(first)
    finish(second)
    assert f"Resuming at epoch {done + 1} of {done + 1}" in err
    assert len(losses(run)) == done + 1 and (run / "metrics.json").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sigterm_to_all_processes_ends_them_with_a_checkpoint_and_143(folder, tmp_path):
    new = ["--data-dir", folder / "photos", "--cache-dir", folder / "cache", "--arch", "classic",
           "--image-size", 16, "--batch-size", 16, "--epochs", 4000, "--output", tmp_path / "run",
           "--hosts", ",".join(free_addresses(2)), "--rank"]  # fmt: skip
    both = [start(*new, rank) for rank in (0, 1)]
    wait_for_the_first_epoch(tmp_path / "run", *both)
    for process in both:
        process.terminate()
    ends = [end(process) for process in both]
    assert [code for code, *_ in ends] == [143, 143]
    assert "To continue:" in ends[0][2] and (tmp_path / "run" / "checkpoint.npz").exists()


@pytest.mark.slow
def test_an_interrupt_of_one_process_ends_all_and_keeps_its_exit_code(folder, tmp_path):
    new = ["--data-dir", folder / "photos", "--cache-dir", folder / "cache", "--arch", "classic",
           "--image-size", 16, "--batch-size", 16, "--epochs", 4000, "--output", tmp_path / "run",
           "--hosts", ",".join(free_addresses(2)), "--rank"]  # fmt: skip
    first, second = start(*new, 0), start(*new, 1)
    wait_for_the_first_epoch(tmp_path / "run", first, second)
    first.send_signal(signal.SIGINT)
    code, _, err = end(first)
    assert code == 130 and "To continue:" in err
    assert end(second)[0] != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "words"),
    [
        (JAX, "expected the same in all processes, got different digest of the photos ("),
        (TWO_DEVICES, "expected the same number of devices in each of 2 processes, got "),
    ],
)
def test_other_photos_or_devices_in_a_process_are_refused(folder, tmp_path, env, words):
    shutil.copytree(folder / "photos", tmp_path / "photos")
    cats = tmp_path / "photos" / "train"
    shutil.copy(cats / "cat.1.png", cats / "cat.2.png")
    rest = ["--image-size", 32, "--output", tmp_path / "run",
            "--hosts", ",".join(free_addresses(2)), "--rank"]  # fmt: skip
    processes = [
        start("--data-dir", root / "photos", "--cache-dir", root / "cache", *rest, rank, env=each)
        for rank, root, each in ((0, folder, JAX), (1, tmp_path, env))
    ]
    for process in processes:
        code, out, err = end(process, 600)
        assert code == 2 and out == "" and "Traceback" not in err, err
        assert words in err
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_where_jax_aborts_the_last_line_is_ours():
    program = """
import os, signal, sys
from catdog.training import devices
devices.ctypes.CDLL(None).signal(signal.SIGABRT, devices._end_instead)
devices.time.sleep = lambda seconds: None
sys.argv = ["train.py"]
os.abort()
"""
    code, _, err = end(start(program=("-c", program), cwd=ROOT))
    assert (code, err.splitlines()[-1]) == (2, f"train.py: error: {devices.LOST}")


@pytest.mark.slow
def test_a_port_in_use_is_refused():
    address = free_addresses(1)[0]
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
        process = start("--hosts", f"{address},127.0.0.1:1", "--rank", 0)
        code, _, err = end(process)
    assert code == 2 and "--hosts: cannot listen at" in err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ValueError("OOM when allocating tensor with shape[256,32,160,160] and type bfloat16"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4194304000 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 3.91 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["numpy", "tensorflow", "jax", "torch", "torch on cpu", "cudnn"],
)
def test_too_little_memory_names_the_settings_that_help(error):
    with pytest.raises(UserError) as caught, devices.memory_errors_explained(Settings()):
        raise error
    assert "--batch-size (here 128) or --image-size (here 160)" in str(caught.value)
    with pytest.raises(ValueError, match="else"), devices.memory_errors_explained(Settings()):
        raise ValueError("something else")
