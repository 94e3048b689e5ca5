"""Run directories: what train.py wrote is read, anything else is refused in one line."""

import errno
import json
import os
import shutil
import zipfile

import numpy as np
import pytest

import model
from catdog import files
from catdog.errors import UserError
from catdog.runs import run
from conftest import disk_full_at

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
    run.create(tmp_path / "run", CONFIG)
    assert run.read_config(tmp_path / "run") == CONFIG


def test_the_config_of_the_projects_own_network_is_read():
    assert run.read_config(run.WEIGHTS)["classes"] == ["cat", "dog"]


DAMAGED = {
    "classes": ["cat", None, 3, {}, [], ["cat"], [1, 2], ["cat", "cat"], ["cat", ""], ["a", ".."],
                ["../a", "b"], ["a", "b\0"], [str(i) for i in range(1001)]],
    "score_size": ["64", 0, -1, 64.5, True, None, 10**9, 1e400],
    "temperature": ["1", 0, -1, True, None, [], float("nan"), float("inf"), 1e9],
    "clip": ["0", -0.1, 1, None, True, float("nan")],
    "settings": [None, [], "plain", 3],
    "files": [[], {"model.keras": "0" * 64}, {"../model-00000000.keras": "0" * 64},
              {"model-11111111.keras": "0" * 64}, {"model-00000000.keras": 7}],
    "answer": [[], {"photos": 10}, {"photos": -1, "scores": 3}, {"photos": 9, "scores": 10**9}],
    "litert_sha256": [3, []],
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
    with pytest.raises(UserError, match=r"config\.json is not") as caught:
        run.read_config(tmp_path)
    assert one_line(caught) and "--" not in str(caught.value)
    assert not run.is_unstarted(tmp_path)


def test_a_config_that_is_no_file_is_refused_without_waiting(tmp_path):
    with pytest.raises(UserError, match=r"expected a run directory with a config\.json"):
        run.read_config(tmp_path)
    path = tmp_path / "config.json"
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        make(path)
        with pytest.raises(UserError, match=r"cannot read .*config\.json: not a regular file"):
            run.read_config(tmp_path)
        os.rmdir(path) if path.is_dir() else path.unlink()


# --- Paths ----------------------------------------------------------------------------------------


def test_paths_of_a_run_are_found_from_every_folder(tmp_path, monkeypatch):
    project, folder = tmp_path / "project", tmp_path / "elsewhere" / "run"
    (project / "deep").mkdir(parents=True)
    monkeypatch.chdir(project)
    kept = run.relative_to_run(folder, "photos")  # before the run directory is made
    assert kept == "../../project/photos"
    assert run.relative_to_run("runs/1", "tmp") == "../../tmp"
    assert run.relative_to_run(folder, "/photos") == "/photos"
    folder.mkdir(parents=True)
    assert run.from_run(folder, kept) == "photos"
    assert run.from_run(folder, "/photos") == "/photos"
    monkeypatch.chdir(project / "deep")
    assert run.from_run("../../elsewhere/run", kept) == "../photos"


def test_links_on_the_way_to_a_run_do_not_mislead_its_paths(tmp_path, monkeypatch):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "disk" / "deep")
    (tmp_path / "photos").mkdir()
    (tmp_path / "project" / "tmp").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "project")
    kept = run.relative_to_run("runs/1", "tmp")
    assert kept == "../../../project/tmp" and run.from_run("runs/1", kept) == "tmp"


# --- State of a run -------------------------------------------------------------------------------


def test_a_run_without_a_checkpoint_may_begin_again(tmp_path):
    folder = tmp_path / "run"
    assert not run.is_unstarted(folder)
    run.create(folder, CONFIG)
    assert run.is_unstarted(folder)
    run.create(folder, {**CONFIG, "score_size": 80})
    assert run.read_config(folder)["score_size"] == 80
    run.write_checkpoint(folder, HISTORY, [])
    assert run.has_checkpoint(folder) and not run.is_unstarted(folder)
    with pytest.raises(UserError, match="cannot write"):
        run.create(folder, CONFIG)


def test_a_run_that_is_being_trained_is_not_begun_again(tmp_path):
    folder = tmp_path / "run"
    with run.claimed(folder, CONFIG):
        for config in (None, {**CONFIG, "score_size": 80}):
            with pytest.raises(UserError, match="in use by process"):
                run.claimed(folder, config).__enter__()
    assert run.read_config(folder) == CONFIG
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_folder_that_exists_gets_a_suffix(tmp_path):
    assert run.free_folder(f"{tmp_path}/a") == tmp_path / "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
    assert run.free_folder(f"{tmp_path}/a") == tmp_path / "a-3"


def test_an_unfinished_run_is_named_as_such(tmp_path):
    run.create(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match=r"finished run, got .* without a model\.keras"):
        run.check_trained(tmp_path / "run")
    run.write_checkpoint(tmp_path / "run", HISTORY, [])
    with pytest.raises(UserError, match=r"which is unfinished: train\.py can resume it"):
        run.check_trained(tmp_path / "run")
    with pytest.raises(UserError, match="which is unfinished"):
        model.load(tmp_path / "run")


# --- Checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_written_and_a_torn_one_is_refused(tmp_path):
    assert run.read_checkpoint(tmp_path) is None
    arrays = [np.arange(6.0).reshape(2, 3), np.array(7)]
    run.write_checkpoint(tmp_path, HISTORY, arrays)
    history, again = run.read_checkpoint(tmp_path)
    assert history == HISTORY
    for a, b in zip(arrays, again, strict=True):
        np.testing.assert_array_equal(a, b)
    whole = (tmp_path / "checkpoint.npz").read_bytes()
    for torn in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)):
        (tmp_path / "checkpoint.npz").write_bytes(torn)
        with pytest.raises(UserError, match=r"checkpoint\.npz is not what .*; without that file"):
            run.read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"history": np.array("{")},
        {"history": np.array("[" * 100_000)},
        {"history": np.array(json.dumps({"updates": 1}))},
        {"history": np.array(json.dumps([{"a": 1}, {"b": 1}]))},
        {"history": np.array(json.dumps([{"a": "1"}]))},
        {"array0": np.array(["text"])},
        {"array0": np.array([{}], dtype=object)},
        {"array7": np.zeros(3)},
    ],
    ids=str,
)
def test_a_checkpoint_that_train_did_not_write_is_refused(tmp_path, change):
    content = {"history": np.array(json.dumps(HISTORY)), "array0": np.zeros(3), **change}
    np.savez(tmp_path / "checkpoint.npz", **content)
    with pytest.raises(UserError, match=r"checkpoint\.npz is not what") as caught:
        run.read_checkpoint(tmp_path)
    assert one_line(caught)


def test_a_checkpoint_that_is_no_file_or_unpacks_to_more_is_refused(tmp_path):
    path = tmp_path / "checkpoint.npz"
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        make(path)
        with pytest.raises(UserError, match=r"cannot read .*npz: not a regular file"):
            run.read_checkpoint(tmp_path)
        os.rmdir(path) if path.is_dir() else path.unlink()
    np.savez_compressed(path, history=np.array(json.dumps(HISTORY)), array0=np.zeros(10**7))
    with pytest.raises(UserError, match=r"npz is not what"):
        run.read_checkpoint(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:  # claims an array that nobody could hold
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
        header += b" " * (117 - len(header)) + b"\n"
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        archive.writestr("array0.npy", start)
        archive.writestr("history.npy", start)
    with pytest.raises(UserError, match=r"npz is not what"):
        run.read_checkpoint(tmp_path)


def test_arrays_of_another_network_are_refused():
    arrays = [np.zeros((2, 3)), np.array(7)]
    run.check_arrays(arrays, [(2, 3), ()])
    for shapes in ([(2, 3)], [(3, 2), ()], [(2, 3), (1,)], [(2, 3), (), ()]):
        with pytest.raises(UserError, match=r"of the network that config\.json names"):
            run.check_arrays(arrays, shapes)
    with pytest.raises(UserError, match="expected finite numbers"):
        run.check_arrays([np.array([1.0, np.nan])], [(2,)])


# --- Other files ----------------------------------------------------------------------------------


def test_photos_trained_on_are_known_and_damage_means_not_known(tmp_path):
    hashes = np.arange(20, dtype=np.uint64).reshape(10, 2)
    assert run.trained_on(tmp_path, hashes) is None
    (tmp_path / "a").mkdir()
    run.write_trained_on(tmp_path / "a", hashes[:3])
    run.write_trained_on(tmp_path, hashes[5:6], init=tmp_path / "a")
    assert run.trained_on(tmp_path, hashes).tolist() == [*[True] * 3, 0, 0, True, *[False] * 4]
    path = tmp_path / "trained_on.npy"
    for content in (b"", b"no array", path.read_bytes()[:-3]):
        path.write_bytes(content)
        assert run.trained_on(tmp_path, hashes) is None
    np.save(path, np.array(["text"]))
    assert run.trained_on(tmp_path, hashes) is None
    path.unlink()
    os.mkfifo(path)
    assert run.trained_on(tmp_path, hashes) is None


def test_what_a_run_can_do_without_costs_a_warning_if_it_is_damaged(tmp_path, caplog):
    hashes = np.zeros((1, 2), np.uint64)
    for name, read in (
        ("history.csv", lambda: run.read_history(tmp_path)),
        ("trained_on.npy", lambda: run.trained_on(tmp_path, hashes)),
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
        assert not read() and f"{name} is not what train.py writes: 8,589" in caplog.text
        (tmp_path / name).unlink()


def test_photos_of_the_same_names_are_not_those_trained_on(tmp_path):
    names, looks = np.arange(6, dtype=np.uint64), np.random.default_rng(0).integers(0, 2**63, 6)
    run.write_trained_on(tmp_path, np.stack([names, looks.astype(np.uint64)], 1))
    others = np.stack([names, (looks ^ 0x0F0F0F0F0F).astype(np.uint64)], 1)  # 20 bits differ
    assert not run.trained_on(tmp_path, others).any()
    encoded_again = np.stack([names, (looks ^ 0b101).astype(np.uint64)], 1)
    assert run.trained_on(tmp_path, encoded_again).all()
    renamed = np.stack([names + np.uint64(9), looks.astype(np.uint64)], 1)
    assert not run.trained_on(tmp_path, renamed).any()


def test_history_comes_back_and_what_is_none_is_empty(tmp_path):
    assert run.read_history(tmp_path) == []
    run.write_history(tmp_path, [{"epoch": 1, "loss": 0.5}])
    assert run.read_history(tmp_path) == [{"epoch": "1", "loss": "0.5"}]
    (tmp_path / "history.csv").write_bytes(b"\xff\xfe")
    assert run.read_history(tmp_path) == []


def test_a_full_disk_leaves_every_file_of_a_run_as_it_was(tmp_path):
    run.create(tmp_path / "run", CONFIG)
    folder, network = tmp_path / "run", model.build("classic", 2, 32)
    row = {"epoch": 1, "loss": 0.5}
    writers = {
        "checkpoint.npz": lambda: run.write_checkpoint(folder, HISTORY, [np.zeros(10_000)]),
        "model.keras": lambda: run.save_network(folder, network),
        "config.json": lambda: files.write_json(folder / "config.json", {"x": "y" * 5000}),
        "history.csv": lambda: run.write_history(folder, [row] * 5000),
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
    run.create(folder, CONFIG)
    run.write_checkpoint(folder, HISTORY, [np.zeros(3)])

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as denied:
        denied.setattr(os, "replace", refuse)
        with pytest.raises(UserError, match=r"cannot write .*checkpoint\.npz: Permission denied"):
            run.write_checkpoint(folder, [*HISTORY, *HISTORY], [np.zeros(3)])
    assert run.read_checkpoint(folder)[0] == HISTORY
    assert len(list(folder.iterdir())) == 3  # with config.json and history.csv
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"cannot write .*checkpoint\.npz: No such file"):
        run.write_checkpoint(folder, HISTORY, [np.zeros(3)])
    assert not folder.exists()  # a checkpoint without its config.json would be of no use


def test_a_finished_run_keeps_no_checkpoint_and_no_leftovers(tmp_path):
    run.write_checkpoint(tmp_path, HISTORY, [])
    assert not run.is_finished(tmp_path)
    run.finish(tmp_path, {"test": {}})
    assert run.is_finished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "metrics.json"}


# --- Files of a network ---------------------------------------------------------------------------


def test_a_new_network_takes_the_place_of_the_old_one_in_one_step(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run.create(folder, CONFIG)
    (folder / "model-mine.keras").write_text("mine")  # somebody else's name
    for number in (1, 2):
        new = tmp_path / "model.keras"
        new.write_text(f"network {number}")
        run.switch(folder, [new], {"temperature": 1.0 + number})
        path, digest = run.network_file(folder, run.read_config(folder), ".keras")
        assert path.read_text() == f"network {number}" and digest == files.sha256(path)
        assert run.read_config(folder)["temperature"] == 1 + number
        assert run.network_files(folder) == [path]
    assert (folder / "model-mine.keras").exists()

    def killed(*_):
        raise KeyboardInterrupt

    new.write_text("network 3")
    monkeypatch.setattr(run.files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.switch(folder, [new], {"temperature": 4.0})
    assert run.network_file(folder, run.read_config(folder), ".keras")[0] == path
    assert path.read_text() == "network 2" and run.read_config(folder)["temperature"] == 3
