"""Both backends, several devices and several machines give what one device gives."""

import csv
import dataclasses
import json
import runpy
import shutil
import subprocess
import sys
import time

import first_steps
import numpy as np
import pytest
import tensorflow as tf
from test_hosts import end, free_addresses

import data
from catdog.training import devices as distribution
from catdog.training import hosts
from catdog.training.recipe import Settings
from conftest import ROOT, draw_photos, run_script, users_environment

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


def run_at_its_start(folder, dataset, name):
    """A run directory as it is before the first epoch: in float32 whatever this processor is."""
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(
        json.dumps(
            {
                "settings": dataclasses.asdict(first_steps.SETTINGS),
                "data_dir": str(folder / "photos"),
                "cache_dir": str(folder / "cache"),
                "classes": dataset.classes,
                "score_size": first_steps.SETTINGS.score_size,
                "splits": dataset.split_sizes(),
            }
        )
    )
    return folder / name


def start(*arguments, program=ROOT / "train.py", env=JAX, **options):
    """Starts `train.py`, by default with JAX."""
    command = [sys.executable, program, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=users_environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


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


# --- Shares of a batch ----------------------------------------------------------------------------


def test_shares_of_the_training_batches_are_together_what_one_process_trains_on(dataset):
    settings = Settings(epochs=1, batch_size=18, image_size=32)
    whole = list(data.training_batches(dataset, settings).as_numpy_iterator())
    parts = [
        data.training_batches(dataset, settings, share=(i, 3)).as_numpy_iterator() for i in range(3)
    ]
    for (images, targets), *shares in zip(whole, *parts, strict=True):
        assert [len(share[0]) for share in shares] == [6, 6, 6]
        np.testing.assert_array_equal(images, np.concatenate([share[0] for share in shares]))
        np.testing.assert_array_equal(targets, np.concatenate([share[1] for share in shares]))


@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_shares_of_the_validation_batches_score_every_photo_once(dataset, batch_size):
    members = dataset.splits["validation"]
    assert len(members) % 4
    parts = [
        list(
            data.shared_evaluation_batches(
                dataset, members, batch_size, share=(i, 4)
            ).as_numpy_iterator()
        )
        for i in range(4)
    ]
    rows = [
        np.concatenate([share[k] for batch in zip(*parts, strict=True) for share in batch])
        for k in range(3)
    ]
    images, targets, weights = rows
    assert all(len(share[2]) == batch_size // 4 for part in parts for share in part)
    scored = weights > 0
    np.testing.assert_array_equal(images[scored], dataset.images[members])
    np.testing.assert_array_equal(targets[scored, 0], dataset.labels[members])
    assert weights.mean() == pytest.approx(1) and len(set(weights[scored])) == 1


def test_one_device_is_trained_without_a_strategy():
    with distribution.scope(hosts.Team([None], 0)):
        assert not tf.distribute.has_strategy() and distribution.share() == (0, 1)


def test_a_batch_is_one_that_the_devices_can_share(monkeypatch):
    monkeypatch.setattr(distribution, "devices", lambda: ["gpu:0", "gpu:1", "gpu:2"])
    assert distribution.divisible(128) == 126
    distribution.check_batch_size(126, "--batch-size")
    for size in (128, 2, 0):
        with pytest.raises(distribution.UserError, match=r"--batch-size: expected .* of 3 photos"):
            distribution.check_batch_size(size, "--batch-size")


# --- Backends -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_backends_have_the_same_losses_from_the_same_weights(folder, dataset):
    arguments = [folder / "photos", folder / "cache", folder / "weights.npz"]
    of_tensorflow = first_steps.losses(*arguments)
    program = ROOT / "tests" / "first_steps.py"
    of_jax = json.loads(finish(start(*arguments, program=program))[0])
    assert len(set(of_tensorflow)) == 4
    np.testing.assert_allclose(of_jax, of_tensorflow, rtol=TOLERANCE)


@pytest.mark.slow
def test_a_run_saved_by_one_backend_is_scored_by_the_other_with_the_same_result(
    folder, dataset, of_jax, of_tensorflow
):
    for run in (of_jax, of_tensorflow):
        scores = []
        for env in ({}, JAX):
            process = run_script(
                "evaluate.py",
                "--model",
                run,
                "--data-dir",
                folder / "photos",
                "--cache-dir",
                folder / "cache",
                "--split",
                "all",
                "--json",
                env=env,
            )
            assert process.returncode == 0, process.stderr
            scores.append(json.loads(process.stdout))
        assert scores[0]["confusion_matrix"] == scores[1]["confusion_matrix"]
        assert scores[0]["log_loss"] == pytest.approx(scores[1]["log_loss"], rel=TOLERANCE)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_tensorflow_leaves_the_gpus_to_another_backend(backend, monkeypatch):
    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *those: hidden.append(those))
    monkeypatch.setattr(data.keras.backend, "backend", lambda: backend)
    runpy.run_path(str(ROOT / "data.py"))
    assert hidden == ([] if backend == "tensorflow" else [([], "GPU")])


# --- Devices and machines -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_jax(folder, dataset):
    """A run of one process on one device."""
    run = run_at_its_start(folder, dataset, "jax")
    finish(start("--resume", run))
    return run


@pytest.fixture(scope="module")
def of_tensorflow(folder, dataset):
    run = run_at_its_start(folder, dataset, "tensorflow")
    finish(start("--resume", run, program=ROOT / "tests" / "one_processor.py", env={}))
    return run


@pytest.mark.slow
def test_two_devices_of_tensorflow_give_the_losses_of_one(folder, dataset, of_tensorflow):
    run = run_at_its_start(folder, dataset, "mirrored")
    program = ROOT / "tests" / "two_processors.py"
    _, err = finish(start("--resume", run, program=program, env={}))
    assert "and 1 more like it" in err
    one, two = losses(of_tensorflow), losses(run)
    np.testing.assert_allclose(two[0], one[0], rtol=TOLERANCE)
    # Muon's Gram matrix makes differences of rounding larger; measured after ten steps: 2e-4.
    np.testing.assert_allclose(two[1:], one[1:], rtol=1e-3)


@pytest.mark.slow
def test_two_devices_of_jax_give_the_losses_of_one(folder, dataset, of_jax):
    run = run_at_its_start(folder, dataset, "two-devices")
    _, err = finish(start("--resume", run, env=TWO_DEVICES))
    assert "and 1 more like it" in err
    np.testing.assert_allclose(losses(run), losses(of_jax), rtol=TOLERANCE)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_the_first_alone_writes(
    folder, dataset, of_jax, tmp_path
):
    run = run_at_its_start(folder, dataset, "two-processes")
    arguments = ["--hosts", ",".join(free_addresses(2)), "--rank"]
    first = start("--resume", run, *arguments, 0)
    second = start("--resume", "it-needs-none", *arguments, 1, cwd=tmp_path)
    (out, err), (nothing, told) = finish(first), finish(second)
    np.testing.assert_allclose(losses(run), losses(of_jax), rtol=TOLERANCE)
    assert out.startswith("accuracy") and "on 2 machines" in err
    assert nothing == "" and list(tmp_path.iterdir()) == []
    assert "Rank 1 of 2" in told and "epoch" not in told


@pytest.mark.slow
def test_a_worker_killed_within_an_epoch_ends_the_other_and_resume_goes_on(folder, tmp_path):
    addresses = free_addresses(2)
    run = tmp_path / "run"
    at = ["--hosts", ",".join(addresses), "--rank"]
    # A small network: JAX compiles the default one for half a minute.
    new = [
        "--data-dir",
        folder / "photos",
        "--cache-dir",
        folder / "cache",
        "--arch",
        "classic",
        "--image-size",
        16,
        "--batch-size",
        16,
        "--epochs",
        400,
        "--output",
        run,
        *at,
    ]
    first, second = start(*new, 0), start(*new, 1)
    deadline = time.monotonic() + 500
    while not (run / "history.csv").exists():  # after the first epoch
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[1]
        time.sleep(0.1)
    killed = time.monotonic()
    second.kill()
    code, _, err = end(first, 600)
    second.communicate()
    assert code == 2 and time.monotonic() - killed < 60
    assert f"lost rank 1 at {addresses[1]}" in err and "Traceback" not in err
    assert f"--resume {run} --hosts" in err.splitlines()[-1]
    done = len(losses(run))

    config = json.loads((run / "config.json").read_text())
    config["settings"]["epochs"] = done + 1
    (run / "config.json").write_text(json.dumps(config))
    first, second = (start("--resume", run, *at, rank) for rank in (0, 1))
    _, err = finish(first)
    finish(second)
    assert f"Going on at epoch {done + 1} of {done + 1}" in err
    assert len(losses(run)) == done + 1 and (run / "metrics.json").exists()


@pytest.mark.slow
def test_a_worker_with_other_photos_or_devices_is_refused_before_training(folder, tmp_path):
    shutil.copytree(folder / "photos", tmp_path / "photos")
    shutil.copy(
        tmp_path / "photos" / "train" / "cat.1.png", tmp_path / "photos" / "train" / "cat.2.png"
    )
    rest = [
        "--image-size",
        32,
        "--output",
        tmp_path / "run",
        "--hosts",
        ",".join(free_addresses(2)),
        "--rank",
    ]
    processes = [
        start(
            "--data-dir", photos / "photos", "--cache-dir", photos / "cache", *rest, rank, env=env
        )
        for rank, photos, env in ((0, folder, JAX), (1, tmp_path, TWO_DEVICES))
    ]
    for process in processes:
        code, out, err = end(process, 600)
        assert code == 2 and out == "" and "Traceback" not in err
        assert "expected the same as rank 0" in err and "digest of the photos" in err
        assert "devices 1 cpu, got 2 cpu" in err
    # What --resume needs once the photos are mended, and nothing more.
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
