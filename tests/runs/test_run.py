"""Run directories: what is whole is read, what is not is refused in one line."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from conftest import disk_full_at

from catdog import files
import model
from catdog.runs import run as runs
from catdog.errors import UserError

CONFIG = {"classes": ["cat", "dog"], "score_size": 64, "temperature": 1.0}


def test_a_config_is_read_as_it_was_written(tmp_path):
    runs.create(tmp_path / "run", CONFIG)
    assert runs.read_config(tmp_path / "run") == CONFIG


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        *(
            json.dumps({**CONFIG, **change})
            for change in (
                {"classes": "cat"},
                {"classes": ["cat"]},
                {"classes": [1, 2]},
                {"score_size": "64"},
                {"score_size": 0},
                {"score_size": 10**9},
                {"temperature": 0},
                {"temperature": "1"},
            )
        ),
        *(
            json.dumps({k: v for k, v in CONFIG.items() if k != key})
            for key in ("classes", "score_size")
        ),
    ],
)
def test_a_config_that_train_did_not_write_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"^--model: .*config\.json is not"):
        runs.read_config(tmp_path)


def test_a_checkpoint_comes_back_as_it_was_written_and_a_torn_one_is_refused(tmp_path):
    assert runs.read_checkpoint(tmp_path) is None
    arrays = [np.arange(6.0).reshape(2, 3), np.array(7)]
    runs.write_checkpoint(tmp_path, {"updates": 3}, arrays)
    state, again = runs.read_checkpoint(tmp_path)
    assert state == {"updates": 3}
    for a, b in zip(arrays, again, strict=True):
        np.testing.assert_array_equal(a, b)
    whole = (tmp_path / "checkpoint.npz").read_bytes()
    for torn in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)):
        (tmp_path / "checkpoint.npz").write_bytes(torn)
        with pytest.raises(UserError, match="--resume: cannot read"):
            runs.read_checkpoint(tmp_path)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    with files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_full_disk_leaves_every_file_of_a_run_as_it_was(tmp_path):
    runs.create(tmp_path / "run", CONFIG)
    run, network = tmp_path / "run", model.build("classic", 2, 32)
    row = {"epoch": 1, "loss": 0.5}
    writers = {
        "checkpoint.npz": lambda: runs.write_checkpoint(run, {"n": 1}, [np.zeros(10_000)]),
        "model.keras": lambda: runs.save_network(run, network),
        "config.json": lambda: runs.write_json(run / "config.json", {**CONFIG, "x": "y" * 5000}),
        "history.csv": lambda: runs.write_history(run, [row] * 5000),
    }
    for write in writers.values():
        write()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for name, write in writers.items():
        for size in (0, 100, 4000):
            with disk_full_at(size), pytest.raises(UserError, match=f"cannot write .*{name}: "):
                write()
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before, name


def test_a_folder_that_may_no_longer_be_written_to_or_is_gone_ends_in_one_line(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    runs.create(run, CONFIG)
    runs.write_checkpoint(run, {"n": 1}, [np.zeros(3)])

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as denied:
        denied.setattr(os, "replace", refuse)
        with pytest.raises(UserError, match=r"cannot write .*checkpoint\.npz: Permission denied"):
            runs.write_checkpoint(run, {"n": 2}, [np.zeros(3)])
    assert runs.read_checkpoint(run)[0] == {"n": 1}
    assert len(list(run.iterdir())) == 2
    shutil.rmtree(run)
    with pytest.raises(UserError, match=r"cannot write .*checkpoint\.npz: No such file"):
        runs.write_checkpoint(run, {"n": 3}, [np.zeros(3)])
    assert not run.exists()  # a checkpoint without its config.json would be of no use


def test_a_report_that_cannot_be_written_is_not_there_at_all(tmp_path):
    with (
        disk_full_at(1000),
        pytest.raises(UserError, match=r"--output: .*report: "),
        files.atomic_folder(tmp_path / "report") as folder,
    ):
        (folder / "small").write_text("x")
        (folder / "large").write_text("x" * 2000)
    assert list(tmp_path.iterdir()) == []


def test_paths_of_a_run_are_relative_to_where_it_was_started(tmp_path, monkeypatch):
    started, run = tmp_path / "project", tmp_path / "elsewhere" / "run"
    (started / "photos").mkdir(parents=True)
    run.mkdir(parents=True)
    monkeypatch.chdir(started)
    config = {"data_dir": "photos", "cache_dir": "/cache", "started_in": runs.started_in(run)}
    assert config["started_in"] == "../../project"
    assert runs.from_here(run, config, "data_dir") == "photos"
    monkeypatch.chdir(tmp_path)
    assert runs.from_here(run, config, "data_dir") == str(started / "photos")
    assert runs.from_here(run, config, "cache_dir") == "/cache"
    moved = run.rename(tmp_path / "run")  # then they are taken from the current folder
    monkeypatch.chdir(started)
    assert runs.from_here(moved, config, "data_dir") == "photos"
    assert runs.from_here(moved, {"data_dir": "photos"}, "data_dir") == "photos"


def test_an_output_among_the_photos_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    for path in ("photos/report", "photos/deep/report", "link/report", "photos"):
        with pytest.raises(UserError, match="--output: expected a folder outside the photos"):
            files.check_outside(tmp_path / path, tmp_path / "photos")
    files.check_outside(tmp_path / "photos-report", tmp_path / "photos")


def test_an_output_that_exists_or_lies_below_a_file_is_refused_before_any_work(tmp_path):
    files.check_new(tmp_path / "new" / "deep")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="--output: expected"):
            files.check_new(path)
