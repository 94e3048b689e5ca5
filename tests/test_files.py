"""JSON that every reader takes; files and folders that are written atomically."""

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from catdog import cli, files
from catdog.errors import UserError, printable
from conftest import ROOT, disk_full_at


def test_to_json_is_strict_and_on_one_line():
    text = files.to_json(
        {
            "nan": math.nan,
            "inf": [-math.inf, np.float32(np.inf)],
            "path": Path("a") / "b",
            "array": np.array([[1.5, np.nan]]),
            "int": np.int64(3),
            "bool": (np.bool_(True), False),
            "long": np.longdouble(0.5),
            "empty": np.zeros((0, 2)),
            "text": "line\nline",
            1: None,
        }
    )
    assert "\n" not in text
    assert json.loads(text, parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, None],
        "path": str(Path("a") / "b"),
        "array": [[1.5, None]],
        "int": 3,
        "bool": [True, False],
        "long": 0.5,
        "empty": [],
        "text": "line\nline",
        "1": None,
    }
    with pytest.raises(TypeError):
        files.to_json({"object": object()})


def test_a_file_is_written_atomically(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    with files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    longest = "x" * 255
    with files.atomic_file(tmp_path / longest) as temporary:
        temporary.write_text("new")
    assert (tmp_path / longest).read_text() == "new"


def test_a_report_that_cannot_be_written_is_not_there_at_all(tmp_path):
    with (
        disk_full_at(1000),
        pytest.raises(UserError, match=r"cannot write .*report: "),
        files.atomic_folder(tmp_path / "report") as folder,
    ):
        (folder / "small").write_text("x")
        (folder / "large").write_text("x" * 2000)
    assert list(tmp_path.iterdir()) == []


def test_an_output_among_the_photos_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    for path in ("photos/report", "photos/deep/report", "link/report", "photos"):
        with pytest.raises(UserError, match="expected a folder outside the photos"):
            files.check_outside(tmp_path / path, tmp_path / "photos")
    files.check_outside(tmp_path / "photos-report", tmp_path / "photos")


def test_an_output_that_exists_or_is_below_a_file_is_refused(tmp_path):
    files.check_new(tmp_path / "new" / "deep")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="expected"):
            files.check_new(path)


WRITE = """
import sys
import time
from pathlib import Path
from catdog import files
with files.atomic_folder(Path(sys.argv[1], "rep")) as folder:
    (folder / "half").write_text("x")
    with files.atomic_file(Path(sys.argv[1], "file")) as temporary:
        temporary.write_text("x")
        print("begun", flush=True)
        sys.stdin.read()
"""


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path):
    names = [".gitignore", ".12345678", ".1234567g.file", "0123abcd.file", ".DS_Store"]
    for name in names:
        (tmp_path / name).touch()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout.readline() == b"begun\n"
    files.remove_leftovers(tmp_path)
    assert len(os.listdir(tmp_path)) == len(names) + 2
    writer.kill()
    writer.communicate()
    files.remove_leftovers(tmp_path, name="rep")
    left = set(os.listdir(tmp_path)) - set(names)
    assert len(left) == 1 and left.pop().endswith(".file")
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_leftovers_of_other_machines_are_removed_when_they_are_old(tmp_path):
    for name in (".0123abcd.file", ".0123abcd.ffffffff.1.file"):
        (tmp_path / name).touch()
        files.remove_leftovers(tmp_path)
        assert (tmp_path / name).exists()
        os.utime(tmp_path / name, (0, 0))
        files.remove_leftovers(tmp_path)
        assert not (tmp_path / name).exists()


def test_what_was_left_of_a_folder_or_file_to_be_made_is_removed(tmp_path):
    machine = files._machine()
    for name in ("sorted/cat/photo.jpg", "sorted/page", "page.html"):
        left = (tmp_path / name).with_name(f".0123abcd.{machine}.999999999.{Path(name).name}")
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
    files.check_new(tmp_path / "page.html", "file")
    assert os.listdir(tmp_path) == ["sorted"]
    with pytest.raises(UserError, match="expected a new or empty folder"):
        files.make_folder(tmp_path / "sorted", [])
    assert os.listdir(tmp_path / "sorted") == ["cat"] and not os.listdir(tmp_path / "sorted/cat")


# --- Locks ----------------------------------------------------------------------------------------

HOLD = "from pathlib import Path; from catdog import files\nwith files.lock(Path('lock')): input()"


def test_lock_names_its_holder_and_ends_with_its_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=tmp_path, env=environment, stdin=subprocess.PIPE
    ) as child:
        while not (path.exists() and path.read_text()):
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"in use by process {child.pid} on "), files.lock(path):
            pass
        child.kill()
        child.wait()
        with files.lock(path):
            assert f"process {os.getpid()} on " in path.read_text()
    assert not any(tmp_path.iterdir())


def test_lock_is_a_plain_file_where_the_file_system_has_none(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    path = tmp_path / "lock"
    with files.lock(path), pytest.raises(UserError, match=r"has ended, remove .*lock\.held"):
        files.lock(path).__enter__()
    assert not any(tmp_path.iterdir())


def test_lock_that_is_a_pipe_is_refused_with_the_reason(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(UserError, match=r"cannot write .*lock: .*not seekable"):
        files.lock(tmp_path / "lock").__enter__()


# --- Messages -------------------------------------------------------------------------------------


def test_joiners_stay_within_persian_hindi_and_emoji_alone():
    for name in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u06af\u0631\u0628\u0647",
        "\u0915\u094d\u200d\u0937",
        "\U0001f408\u200d\u2b1b",
    ):
        assert printable(name) == name
    assert printable("c\u200dat\u200c") == r"c\u200dat\u200c"


def test_an_error_is_one_line_whatever_its_names_are(tmp_path, capsys):
    path = tmp_path / os.fsdecode(b"a\n\xff\x1b[31m\xe2\x80\xaeb")
    error = UserError(f"expected a folder, got {path}", "--output", "Try this,\nor that.")
    shown = f"argument --output: expected a folder, got {tmp_path}/a\\n\\xff\\x1b[31m\\u202eb"
    assert str(error).splitlines() == [shown, "Try this,", "or that."]
    cli.say(path, "", error.args[0])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [str(path.parent / r"a\n\xff\x1b[31m\u202eb"), "", shown[19:]]
