"""Run directories: what train.py wrote is read, anything else is refused in one line."""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import model
from catdog import backend, files
from catdog.errors import UserError
from catdog.runs.run import WEIGHTS, Run
from catdog.training.settings import Settings
from conftest import disk_full_at, make_run

CONFIG = {
    "settings": {"arch": "plain"},
    "classes": ["cat", "dog"],
    "score_size": 64,
    "temperature": 1.0,
}
HISTORY = [{"epoch": 1, "loss": 0.5}]


def one_line(error):
    return len(str(error.value).splitlines()) == 1


# --- config.json ----------------------------------------------------------------------------------


def test_a_config_is_read_as_it_was_written(tmp_path):
    make_run(tmp_path / "run", CONFIG)
    assert Run(tmp_path / "run").config == CONFIG


def test_the_config_of_the_projects_own_network_is_read():
    assert Run().config["classes"] == ["cat", "dog"]


DAMAGED = {
    "classes": ["cat", None, 3, {}, [], ["cat"], [1, 2], ["cat", "cat"], ["cat", ""], ["a", ".."],
                ["../a", "b"], ["a", "b\0"], [str(i) for i in range(1001)]],
    "score_size": ["64", 0, -1, 64.5, True, None, 10**9, 1e400],
    "temperature": ["1", 0, -1, True, None, [], float("nan"), float("inf"), 1e9],
    "clip": ["0", -0.1, 1, None, True, float("nan")],
    "settings": [None, [], "plain", 3],
    "files": [[], "model.keras", 7],
    "answer": [[], {"photos": 10}, {"photos": -1, "scores": 3}, {"photos": 9, "scores": 10**9},
               {"photos": 9, "scores": 9, "more": 9}],
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", "[" * 100_000, "\xff", '{"classes": ' + "9" * 5000 + "}"),
        *(json.dumps({**CONFIG, key: value}) for key in DAMAGED for value in DAMAGED[key]),
        *(json.dumps({k: v for k, v in CONFIG.items() if k != key})
          for key in ("classes", "score_size")),
    ],
)  # fmt: skip
def test_a_config_that_train_did_not_write_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"cannot read .*config\.json: ") as caught:
        assert Run(tmp_path).config
    assert one_line(caught) and "--" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot read .*config\.json: "):
        Run(tmp_path).held(new=True).__enter__()


def test_a_config_that_is_no_file_is_refused_without_waiting(tmp_path):
    with pytest.raises(UserError, match=r"expected a run directory with a config\.json"):
        assert Run(tmp_path).config
    path = tmp_path / "config.json"
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        make(path)
        with pytest.raises(UserError, match=r"cannot read .*config\.json: not a regular file"):
            assert Run(tmp_path).config
        os.rmdir(path) if path.is_dir() else path.unlink()


def test_a_closed_folder_is_refused_with_the_reason(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    run = Run(tmp_path)
    with monkeypatch.context() as patch:  # the tests may run as root
        patch.setattr(os, "stat", refuse)
        assert not run.is_finished() and not run.has_checkpoint()
        with pytest.raises(UserError, match=r"cannot read .*config\.json: Permission denied"):
            assert run.config


# --- Paths ----------------------------------------------------------------------------------------


class Photos:
    """What a run wants to know of its dataset."""

    classes, skipped = ["cat", "dog"], []

    def split_sizes(self):
        return {"train": 8, "validation": 1, "test": 1}

    def digest(self):
        return "0123456789abcdef"


def describe(folder, data_dir):
    """Writes the config of a run whose photos are in `data_dir`, as it was typed."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    run.describe(Settings(), Photos(), {"data_dir": data_dir, "cache_dir": "cache"}, {})
    return run.config["data_dir"]


def test_paths_of_a_run_are_found_from_every_folder(tmp_path, monkeypatch):
    project, folder = tmp_path / "project", tmp_path / "elsewhere" / "run"
    (project / "deep").mkdir(parents=True)
    monkeypatch.chdir(project)
    assert describe("runs/1", "tmp") == "../../tmp"
    assert describe(folder, "/photos") == Run(folder).place("data_dir") == "/photos"
    assert describe(folder, "photos") == "../../project/photos"
    assert Run(folder).place("data_dir") == "photos"
    assert Run(WEIGHTS).place("data_dir") == os.path.relpath(WEIGHTS.parent / "tmp")
    monkeypatch.chdir(project / "deep")
    assert Run("../../elsewhere/run").place("data_dir") == "../photos"


def test_links_on_the_way_to_a_run_do_not_mislead_its_paths(tmp_path, monkeypatch):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "disk" / "deep")
    (tmp_path / "photos").mkdir()
    (tmp_path / "project" / "tmp").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "project")
    assert describe("runs/1", "tmp") == "../../../project/tmp"
    assert Run("runs/1").place("data_dir") == "tmp"


# --- State of a run -------------------------------------------------------------------------------


def test_a_run_without_a_checkpoint_may_begin_again(tmp_path):
    run = make_run(tmp_path / "run", CONFIG)
    with run.held(new=True):
        run.write_config({**CONFIG, "score_size": 80})
    assert Run(tmp_path / "run").config["score_size"] == 80
    run.save(HISTORY, [])
    assert run.has_checkpoint()
    with pytest.raises(
        UserError, match=r"expected a new folder, .* other files; .*--resume .*run$"
    ):
        run.held(new=True).__enter__()
    with run.held():
        pass


def test_a_run_that_is_being_trained_is_not_begun_again(tmp_path):
    folder = tmp_path / "run"
    with Run(folder).held(new=True):
        Run(folder).write_config(CONFIG)
        for new in (False, True):
            with pytest.raises(UserError, match="in use by process"):
                Run(folder).held(new).__enter__()
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_folder_that_nothing_was_written_into_is_removed(tmp_path):
    with Run(tmp_path / "runs" / "run").held(new=True):
        assert (tmp_path / "runs" / "run").is_dir()
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make .*file: File exists"):
        Run(tmp_path / "file").held(new=True).__enter__()


def test_processes_other_than_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "index", lambda: 1)
    run = Run(tmp_path / "run")
    with run.held(new=True):
        run.describe(Settings(), Photos(), {"data_dir": "tmp", "cache_dir": "cache"}, {})
        run.save(HISTORY, [])
    assert run.settings == Settings() and not run.has_checkpoint()
    assert not any(tmp_path.iterdir())


def test_an_unfinished_run_is_named_as_such(tmp_path):
    run = make_run(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match=r"finished run, got .* without a model\.keras$"):
        run.check_trained()
    run.save(HISTORY, [])
    with pytest.raises(UserError, match=r"to continue it:  python train\.py --resume"):
        model.load(tmp_path / "run")


# --- Checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_written_and_a_torn_one_is_refused(tmp_path):
    run, again = Run(tmp_path), []
    assert run.restore(again.extend) == [] == again
    arrays = [np.arange(6.0).reshape(2, 3), np.array(7)]
    run.save(HISTORY, arrays)
    assert run.restore(again.extend) == HISTORY
    for a, b in zip(arrays, again, strict=True):
        np.testing.assert_array_equal(a, b)
    whole = (tmp_path / "checkpoint.npz").read_bytes()
    for torn in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)):
        (tmp_path / "checkpoint.npz").write_bytes(torn)
        with pytest.raises(UserError, match=r"cannot read .*checkpoint\.npz: .*; without that"):
            run.restore(list)


@pytest.mark.parametrize(
    "change",
    [
        {"history": np.array("{")},
        {"history": np.array("[" * 100_000)},
        {"history": np.array(json.dumps({"updates": 1}))},
        {"history": np.array(json.dumps([{"a": 1}, {"b": 1}]))},
        {"history": np.array(json.dumps([{"a": "1"}]))},
        {"array0": np.array([{}], dtype=object)},
        {"array7": np.zeros(3)},
    ],
    ids=str,
)
def test_a_checkpoint_that_train_did_not_write_is_refused(tmp_path, change):
    content = {"history": np.array(json.dumps(HISTORY)), "array0": np.zeros(3), **change}
    np.savez(tmp_path / "checkpoint.npz", **content)
    with pytest.raises(UserError, match=r"cannot read .*checkpoint\.npz: ") as caught:
        Run(tmp_path).restore(list)
    assert one_line(caught)


def test_a_checkpoint_that_is_no_file_or_unpacks_to_more_is_refused(tmp_path):
    path = tmp_path / "checkpoint.npz"
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        make(path)
        with pytest.raises(UserError, match=r"cannot read .*npz: not a regular file"):
            Run(tmp_path).restore(list)
        os.rmdir(path) if path.is_dir() else path.unlink()
    np.savez_compressed(path, history=np.array(json.dumps(HISTORY)), array0=np.zeros(10**7))
    with pytest.raises(UserError, match=r"cannot read .*npz: "):
        Run(tmp_path).restore(list)
    with zipfile.ZipFile(path, "w") as archive:  # claims an array that nobody could hold
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
        header += b" " * (117 - len(header)) + b"\n"
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        archive.writestr("array0.npy", start)
        archive.writestr("history.npy", start)
    with pytest.raises(UserError, match=r"cannot read .*npz: "):
        Run(tmp_path).restore(list)


def test_arrays_of_another_network_are_refused(tmp_path):
    import keras

    variables = [keras.Variable(np.zeros((2, 3))), keras.Variable(np.array(7.0))]

    def assign(arrays):
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    run = Run(tmp_path)
    run.save(HISTORY, [np.ones((2, 3)), np.array(8.0)])
    assert run.restore(assign) == HISTORY and float(variables[1]) == 8
    for shapes in ([(2, 3)], [(3, 2), ()], [(2, 3), (1,)], [(2, 3), (), ()]):
        run.save(HISTORY, list(map(np.zeros, shapes)))
        with pytest.raises(UserError, match=r"cannot read .*checkpoint\.npz: ") as caught:
            run.restore(assign)
        assert one_line(caught)
    run.save(HISTORY, [np.ones((2, 3)), np.array("text")])
    with pytest.raises(UserError, match=r"cannot read .*checkpoint\.npz: "):
        run.restore(assign)


# --- Other files ----------------------------------------------------------------------------------


def test_photos_trained_on_are_known_and_damage_means_not_known(tmp_path):
    hashes = np.arange(20, dtype=np.uint64).reshape(10, 2)
    assert Run(tmp_path).trained_on(hashes) is None
    (tmp_path / "a").mkdir()
    Run(tmp_path / "a").write_trained_on(hashes[:3])
    Run(tmp_path).write_trained_on(hashes[5:6], init=tmp_path / "a")
    assert Run(tmp_path).trained_on(hashes).tolist() == [*[True] * 3, 0, 0, True, *[False] * 4]
    path = tmp_path / "trained_on.npy"
    for content in (b"", b"no array", path.read_bytes()[:-3]):
        path.write_bytes(content)
        assert Run(tmp_path).trained_on(hashes) is None
    np.save(path, np.array(["text"]))
    assert Run(tmp_path).trained_on(hashes) is None
    path.unlink()
    os.mkfifo(path)
    assert Run(tmp_path).trained_on(hashes) is None


def test_what_a_run_can_do_without_costs_a_warning_if_it_is_damaged(tmp_path, caplog):
    hashes = np.zeros((1, 2), np.uint64)
    for name, read in (
        ("history.csv", lambda: Run(tmp_path).history()),
        ("trained_on.npy", lambda: Run(tmp_path).trained_on(hashes)),
    ):
        for content in (
            b"\xff\0",
            b"\x93NUMPY\x01\0v\0{'descr': '<u8' (",
            b"\x93NUMPY\x01\0v\0" * 9,
        ):
            (tmp_path / name).write_bytes(content)
            caplog.clear()
            assert not read() or name == "history.csv"
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**33)  # sparse
        assert not read() and f"{name}: 8,589,934,592 bytes, more than" in caplog.text
        (tmp_path / name).unlink()


def test_photos_of_the_same_names_are_not_those_trained_on(tmp_path):
    names, looks = np.arange(6, dtype=np.uint64), np.random.default_rng(0).integers(0, 2**63, 6)
    Run(tmp_path).write_trained_on(np.stack([names, looks.astype(np.uint64)], 1))
    others = np.stack([names, (looks ^ 0x0F0F0F0F0F).astype(np.uint64)], 1)  # 20 bits differ
    assert not Run(tmp_path).trained_on(others).any()
    encoded_again = np.stack([names, (looks ^ 0b101).astype(np.uint64)], 1)
    assert Run(tmp_path).trained_on(encoded_again).all()
    renamed = np.stack([names + np.uint64(9), looks.astype(np.uint64)], 1)
    assert not Run(tmp_path).trained_on(renamed).any()
    assert Run(tmp_path).trained_on(renamed, renamed=True).all()
    one_of_many = np.concatenate([renamed[:1], np.ones((200, 2), np.uint64)])
    assert not Run(tmp_path).trained_on(one_of_many, renamed=True).any()  # may be chance


def test_history_comes_back_and_what_is_none_is_empty(tmp_path):
    assert Run(tmp_path).history() == []
    Run(tmp_path).save([{"epoch": 1, "loss": 0.5}], [])
    assert Run(tmp_path).history() == [{"epoch": "1", "loss": "0.5"}]
    (tmp_path / "history.csv").write_bytes(b"\xff\xfe")
    assert Run(tmp_path).history() == []


def test_a_full_disk_leaves_every_file_of_a_run_as_it_was(tmp_path):
    run, network = make_run(tmp_path / "run", CONFIG), model.build("classic", 2, 32)
    folder = run.folder
    writers = {
        "checkpoint.npz": lambda: run.save(HISTORY, [np.zeros(10_000)]),
        "model.keras": lambda: run.save_network(network),
        "config.json": lambda: run.write_config({**CONFIG, "x": "y" * 5000}),
    }
    for write in writers.values():
        write()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, write in writers.items():
        for size in (0, 100, 4000):
            with disk_full_at(size), pytest.raises(UserError, match=f"cannot write .*{name}: "):
                write()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, name


def test_a_folder_that_is_read_only_or_gone_ends_in_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run = make_run(folder, CONFIG)
    run.save(HISTORY, [np.zeros(3)])

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as denied:
        denied.setattr(os, "replace", refuse)
        with pytest.raises(UserError, match=r"cannot write .*checkpoint\.npz: Permission denied"):
            run.save([*HISTORY, *HISTORY], [np.zeros(3)])
    assert run.restore(list) == HISTORY
    assert len(list(folder.iterdir())) == 3  # with config.json and history.csv
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"cannot write .*checkpoint\.npz: No such file"):
        run.save(HISTORY, [np.zeros(3)])
    assert not folder.exists()  # a checkpoint without its config.json would be of no use


def test_a_finished_run_keeps_no_checkpoint_and_no_leftovers(tmp_path):
    run = Run(tmp_path)
    run.save(HISTORY, [])
    assert not run.is_finished()
    run.finish({"test": {}})
    assert run.is_finished()
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "metrics.json"}


# --- Files of a network ---------------------------------------------------------------------------


def test_a_new_network_takes_the_place_of_the_old_one_in_one_step(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    make_run(folder, CONFIG)
    (folder / "model-mine.keras").write_text("mine")  # somebody else's name
    new = tmp_path / "model.keras"
    for number in (1, 2):
        new.write_text(f"network {number}")
        Run(folder).switch([new], temperature=1.0 + number)
        path = Run(folder).network_file(".keras")
        assert path.read_text() == f"network {number}"
        assert Run(folder).config["temperature"] == 1 + number
        assert Run(folder).config["files"] == {path.name: files.sha256(path)}
        assert Run(folder).network_files() == [path]
    assert (folder / "model-mine.keras").exists()

    def killed(*_):
        raise KeyboardInterrupt

    new.write_text("network 3")
    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        Run(folder).switch([new], temperature=4.0)
    assert Run(folder).network_file(".keras") == path
    assert path.read_text() == "network 2" and Run(folder).config["temperature"] == 3
