"""Photos found for predict.py, and decoded ahead in their order."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from catdog.errors import UserError
from catdog.photos import decode
from catdog.photos.photo import PhotoError, load_photo
from conftest import ROOT
from photo_files import save


def paths(*arguments, **more):
    return [path for path, _ in decode.find([str(argument) for argument in arguments], **more)]


def reasons(*arguments):
    found = decode.find([str(argument) for argument in arguments])
    return {path: str(error) for path, error in found if error}


@pytest.fixture
def stdin(tmp_path):
    """Puts bytes on stdin, as a pipe or a file would."""
    kept = os.dup(0)

    def put(content):
        (tmp_path / "stdin").write_bytes(content)
        file = os.open(tmp_path / "stdin", os.O_RDONLY)
        os.dup2(file, 0)
        os.close(file)

    yield put
    os.dup2(kept, 0)
    os.close(kept)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "c.jpg", "deep/d.jpg"):
        save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path / "photos"


# --- Find -----------------------------------------------------------------------------------------


def test_files_folders_and_missing_files_come_in_their_order(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "missing.jpg"
    assert paths(folder / "c.jpg", folder, missing) == [
        str(folder / name) for name in ("c.jpg", "a.png", "b.png", "c.jpg", "deep/d.jpg")
    ] + [str(missing)]
    assert reasons(tmp_path / "empty") == {str(tmp_path / "empty"): "a folder without images"}


def test_a_pattern_is_expanded_as_a_shell_would(folder):
    assert paths(folder / "*.png") == [str(folder / "a.png"), str(folder / "b.png")]
    assert paths(folder / "?.jpg") == [str(folder / "c.jpg")]
    assert paths(folder / "[ab].*") == [str(folder / "a.png"), str(folder / "b.png")]
    assert paths(folder / "**" / "*.jpg") == [str(folder / "c.jpg"), str(folder / "deep/d.jpg")]
    assert paths(folder / "de*") == [str(folder / "deep/d.jpg")]  # a folder that matches
    assert paths(folder / "x*.png") == [str(folder / "x*.png")]  # reported as not found


def test_a_file_with_the_name_of_a_pattern_is_that_file(folder):
    save(folder / "[a].png")
    assert paths(folder / "[a].png") == [str(folder / "[a].png")]


@pytest.mark.parametrize("end", [b"\n", b"\0", b"\r\n"])
def test_paths_on_stdin(stdin, folder, end):
    names = [os.fsencode(folder / name) for name in ("a.png", "c.jpg", "deep")]
    for content in (end.join(names), end.join(names) + end, end + end.join([*names, b"", b""])):
        stdin(content)
        found = paths("-", end=end)
        assert found == [str(folder / name) for name in ("a.png", "c.jpg", "deep/d.jpg")]
    stdin(b"")
    assert [(path, str(error)) for path, error in decode.find(["-"])] == [("-", "no path on stdin")]


def test_a_list_on_stdin_may_be_written_by_windows(stdin, folder):
    stdin(os.fsencode(folder / "a.png") + b"\r\n" + os.fsencode(folder / "c.jpg") + b"\r\n")
    assert paths("-") == [str(folder / "a.png"), str(folder / "c.jpg")]


def test_a_line_on_stdin_that_is_too_long_for_a_path_is_refused(stdin, folder):
    good = os.fsencode(folder / "a.png")
    longest = b"x" * decode.MAX_PATH_BYTES
    stdin(b"\n".join([good, b"y" * 80_000_000, good, longest, good, b"z" * 80_000_000]))
    started = time.process_time()
    found = list(decode.find(["-"]))
    assert time.process_time() - started < 5
    assert [path for path, _ in found] == [
        str(folder / "a.png"), "y" * 64 + "...", str(folder / "a.png"), longest.decode(),
        str(folder / "a.png"), "z" * 64 + "...",
    ]  # fmt: skip
    assert [str(error) for _, error in found if error] == ["not a possible file name"] * 2


def test_a_long_line_on_stdin_takes_no_memory(tmp_path):
    code = (
        "import resource; from catdog.photos import decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "(found,) = decode.find(['-'])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=b"x" * 80_000_000, capture_output=True, cwd=ROOT)
    assert float(done.stdout) < 20  # MiB


def test_a_closed_stdin_is_a_users_error():
    kept = os.dup(0)
    os.close(0)
    try:
        with pytest.raises(UserError, match=r"^cannot read paths from stdin: Bad file descriptor"):
            list(decode.find(["-"]))
    finally:
        os.dup2(kept, 0)
        os.close(kept)


# --- Decode ---------------------------------------------------------------------------------------


def given(names):
    return ((name, None) for name in names)


def test_photos_come_in_their_order_with_the_errors_among_them(folder):
    names = [str(folder / name) for name in ("a.png", "missing.png", "c.jpg", "b.png")] * 50
    stream = decode.Stream([("first", PhotoError("refused")), *given(names)], 16)
    batches = list(stream.batches())
    assert all(1 <= len(batch) <= decode.BATCH for batch in batches)
    (first, error), *results = [item for batch in batches for item in batch]
    assert first == "first" and str(error) == "refused"
    assert [path for path, _ in results] == names
    for path, image in results:
        if path.endswith("missing.png"):
            assert isinstance(image, PhotoError) and str(image) == "not found"
        else:
            np.testing.assert_array_equal(image, load_photo(path, 16))
    assert stream.found == 201 and stream.complete


def test_a_slow_photo_does_not_hold_up_those_before_it():
    release = threading.Event()

    def slow(path, size):
        if path == "2":
            release.wait(10)
        return path

    batches = decode.Stream(given("01234"), 8, slow).batches()
    got = []
    while len(got) < 2:
        got += next(batches)
    assert [path for path, _ in got] == ["0", "1"]
    release.set()
    assert [path for batch in batches for path, _ in batch] == ["2", "3", "4"]


@pytest.mark.parametrize("error", [ValueError, UserError, KeyboardInterrupt])
def test_an_error_of_the_paths_or_of_the_decoder_reaches_the_reader(error):
    def broken_paths():
        yield "0", None
        raise ValueError

    def broken_decode(path, size):
        raise error("no")

    with pytest.raises(error):
        list(decode.Stream(given("0"), 8, broken_decode).batches())
    with pytest.raises(ValueError):
        list(decode.Stream(broken_paths(), 8, lambda path, size: path).batches())


def test_only_so_many_photos_are_decoded_ahead():
    decoded = []
    names = map(str, range(10_000))
    stream = decode.Stream(given(names), 8, lambda path, size: decoded.append(path) or path)
    batches = stream.batches()
    first = next(batches)
    time.sleep(0.3)
    assert len(decoded) <= stream.found <= decode.AHEAD + len(first) + 2
    batches.close()
    # Of large squares, as many as fit into the memory for them.
    large = decode.Stream(given(names), 2000, lambda path, size: path)
    assert large._in_order.maxsize == max(5, 2 * os.cpu_count())


def test_who_stops_reading_does_not_wait_for_what_is_left():
    decoded = []

    def slow(path, size):
        decoded.append(path)
        time.sleep(0.02)
        return path

    before = threading.active_count()
    batches = decode.Stream(given(map(str, range(10_000))), 8, slow).batches()
    next(batches)
    started = time.monotonic()
    batches.close()
    assert time.monotonic() - started < 1
    time.sleep(1.5)
    done = len(decoded)
    time.sleep(0.2)
    assert len(decoded) == done < 50
    assert threading.active_count() <= before


def test_ctrl_c_ends_the_process_at_once(folder):
    code = (
        "import itertools, os, signal, sys, time; from catdog.photos import decode\n"
        "def slow(path, size): time.sleep(0.05); return path\n"
        "paths = ((str(n), None) for n in itertools.count())\n"
        "batches = decode.Stream(paths, 8, slow).batches()\n"
        "next(batches); print(flush=True)\n"
        "for batch in batches: time.sleep(1)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        process.stdout.readline()
        started = time.monotonic()
        process.send_signal(2)
        process.communicate()
        assert time.monotonic() - started < 4
    assert process.returncode != 0
