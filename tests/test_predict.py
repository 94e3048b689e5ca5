"""Predicting: inputs, output formats, both runtimes, pictures, submissions, bad files, signals."""

import csv
import errno
import json
import os
import pty
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from PIL import Image

import model
import predict
from catdog import files
from catdog.errors import UserError
from catdog.runs import lines
from catdog.runs import run as run_module
from catdog.runs.classifier import Prediction
from catdog.runs.run import Run
from catdog.scores import explain
from conftest import (
    ROOT,
    disk_full_at,
    draw_photos,
    network_file,
    run_here,
    run_script,
    users_environment,
    write_answer,
)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Six pictures in a folder and three below it."""
    folder = draw_photos(tmp_path_factory.mktemp("drawn"), 3)
    draw_photos(folder / "below", 1)
    return folder


@pytest.fixture
def answers(trained, capsys):
    """Runs predict.py within this process: `code, lines of stdout, lines of stderr`."""

    def run(*arguments, model=trained[0]):
        capsys.readouterr()
        code = predict.main(["--model", str(model), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


def cells(lines):
    return [line.split("\t") for line in lines]


def paths(folder):
    return [str(folder / f"{name}.{i}.png") for name in ("cat", "dog") for i in range(3)]


# --- Both runtimes --------------------------------------------------------------------------------


def test_predicting_imports_neither_keras_nor_anything_else_that_is_slow(trained, drawn):
    process = run_script(
        "predict.py",
        "--model",
        trained[0],
        drawn,
        env={"PYTHONPROFILEIMPORTTIME": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 8
    imported = {line.split("|")[-1].strip().split(".")[0] for line in process.stderr.splitlines()}
    assert "ai_edge_litert" in imported
    slow = {
        "tensorflow",
        "keras",
        "jax",
        "sklearn",
        "scipy",
        "matplotlib",
        "tqdm",
        "jinja2",
        "h5py",
    }
    assert not imported & slow


def test_without_the_litert_package_keras_predicts(trained, drawn, tmp_path, monkeypatch):
    (tmp_path / "ai_edge_litert.py").write_text("raise ImportError('no wheel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = run_script(
        "predict.py", "--model", trained[0], "--layers", tmp_path / "layers", paths(drawn)[0]
    )
    assert process.returncode == 0
    without_litert, _, drawn_into = (
        process.stderr.splitlines()
    )  # and the model: TensorFlow prints nothing
    assert drawn_into.endswith("layers: 1")
    assert "no wheel: using Keras" in without_litert
    monkeypatch.undo()
    quick = run_script("predict.py", "--model", trained[0], paths(drawn)[0])
    (slow,), (quick,) = cells(process.stdout.splitlines()), cells(quick.stdout.splitlines())
    assert quick[:2] == slow[:2] and abs(float(quick[2]) - float(slow[2])) < 0.05
    # A row for the photo, the filters and each block, in one picture.
    picture = Image.open(tmp_path / "layers" / "cat.0.png")
    assert picture.width > 1000 and picture.height > 1000


def test_a_file_that_cannot_be_loaded_is_refused_in_one_line(trained, tmp_path):
    (tmp_path / "config.json").write_text((trained[0] / "config.json").read_text())
    (tmp_path / network_file(trained[0], ".tflite").name).write_text("no model")
    process = run_script("predict.py", "--model", tmp_path, "photo.jpg")
    assert process.returncode == 2
    assert "--model: cannot read" in process.stderr and len(process.stderr.splitlines()) == 1


# --- Inputs ---------------------------------------------------------------------------------------


def test_files_folders_and_stdin_in_any_mixture_come_out_in_order(trained, drawn):
    files = paths(drawn)
    below = [str(drawn / "below" / name) for name in ("cat.0.png", "dog.0.png")]
    process = run_script(
        "predict.py",
        "--model",
        trained[0],
        files[5],
        drawn,
        "-",
        files[4],
        input=f"{files[3]}\n\n{drawn / 'below'}\n{files[2]}",
    )
    assert process.returncode == 0
    lines = cells(process.stdout.splitlines())
    assert [line[0] for line in lines] == [
        files[5],
        *files,
        *below,
        files[3],
        *below,
        files[2],
        files[4],
    ]
    assert lines[0] == lines[6]
    assert all(label in ("cat", "dog") and 0.5 <= float(p) <= 1 for _, label, p, _ in lines)
    (message,) = process.stderr.splitlines()
    assert str(trained[0]) in message and "LiteRT" in message


def test_paths_on_stdin_may_end_with_nul(trained, drawn, tmp_path):
    odd = str(shutil.copy(paths(drawn)[0], tmp_path / "two\nlines.png"))
    process = run_script(
        "predict.py",
        "--model",
        trained[0],
        "--json",
        "-0",
        "-",
        input=f"{odd}\0{paths(drawn)[1]}\0",
    )
    assert process.returncode == 0
    lines = list(map(json.loads, process.stdout.splitlines()))
    assert [line["path"] for line in lines] == [odd, paths(drawn)[1]]


def test_a_list_of_paths_that_windows_wrote_is_read(trained, drawn, tmp_path):
    odd = str(shutil.copy(paths(drawn)[0], tmp_path / "name.png\r"))  # there may be such a name
    names = [*paths(drawn)[:2], odd]
    process = run_script(
        "predict.py",
        "--model",
        trained[0],
        "-",
        input=f"{names[0]}\r\n\r\n{names[1]}\r\n{odd}\n{names[0]}\r",
    )
    assert process.returncode == 0, process.stderr
    printed = [*names, names[0]]
    printed[2] = odd.replace("\r", "\\r")
    assert [line[0] for line in cells(process.stdout.splitlines())] == printed


def test_no_path_on_stdin_is_said(trained):
    process = run_script("predict.py", "--model", trained[0], "-", stdin=subprocess.DEVNULL)
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr.splitlines()[-1] == "-: no path on stdin"


def test_a_stdin_that_cannot_be_read_is_refused(trained):
    with open(os.devnull, "w") as no_input:
        process = run_script("predict.py", "--model", trained[0], "-", stdin=no_input)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith("read paths from stdin: Bad file descriptor")


def bmp_header(width, height):
    return struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0
    )


def test_each_bad_file_gets_a_line_with_the_reason_and_the_rest_is_done(
    answers, tmp_path, drawn, monkeypatch
):
    good = (drawn / "cat.0.png").read_bytes()
    Image.open(paths(drawn)[0]).convert("L").save(tmp_path / "whole.jpg")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    fine = [b"with space.png", b"tab\there.png", b"new\nline.png", b"any\xff\x1b[0mbytes.png"]
    for name in fine:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(good)
    bad = {
        "page.jpg": (b"<html>", "got a web page"),
        "empty.jpg": (b"", "is empty"),
        "cut.jpg": ((tmp_path / "whole.jpg").read_bytes()[:500], "truncated"),
        "flat.bmp": (bmp_header(0, 0), "damaged|no pixels"),
        "huge.bmp": (bmp_header(30_000, 30_000), "more than the limit"),
        "secret.png": (good, "permission denied"),
        "gone.png": (None, "a broken link"),
    }
    for name, (content, _) in bad.items():
        if content is None:
            (tmp_path / name).symlink_to("nowhere.png")
        else:
            (tmp_path / name).write_bytes(content)
    (tmp_path / "nothing").mkdir()
    real_open = os.open

    def refuse(path, *arguments, **options):  # the tests may run as root, whom nothing is denied
        if str(path).endswith("secret.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    code, lines, errors = answers(tmp_path, tmp_path / "nothing", tmp_path / "missing.jpg")
    assert code == 1
    assert {os.path.basename(line[0]) for line in cells(lines)} == {
        "whole.jpg",
        "animated.gif",
        "with space.png",
        r"tab\there.png",
        r"new\nline.png",
        r"any\xff\x1b[0mbytes.png",
    }
    assert len(errors) == 1 + len(bad) + 2  # the first names the model
    for name, (_, reasons) in bad.items():
        (line,) = [line for line in errors if f"/{name}: " in line]
        assert any(reason in line for reason in reasons.split("|")), line
    assert errors[-2] == f"{tmp_path}/nothing: a folder without images"
    assert errors[-1] == f"{tmp_path}/missing.jpg: not found"

    code, lines, _ = answers("--json", tmp_path)
    lines = list(map(strict_json, lines))
    assert code == 1 and len(lines) == len(bad) + 6
    assert {line["path"] for line in lines} >= {
        f"{tmp_path}/tab\there.png",
        f"{tmp_path}/any\\xff\\x1b[0mbytes.png",
    }
    failed = {os.path.basename(line["path"]) for line in lines if set(line) == {"path", "error"}}
    assert failed == set(bad)


# --- Output ---------------------------------------------------------------------------------------


def strict_json(line):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_json_has_all_probabilities(answers, drawn):
    code, lines, _ = answers("--json", drawn / "below")
    assert code == 0
    for line in map(strict_json, lines):
        shown = ["path", "label", "probability", "probabilities", "unknown", "novelty"]
        assert list(line) == shown
        assert line["probability"] == max(line["probabilities"].values())
        assert line["probabilities"][line["label"]] == line["probability"]
        assert sum(line["probabilities"].values()) == pytest.approx(1)


def test_threshold_marks_the_proposed_label_and_admits_to_be_unsure(answers, drawn):
    photo = paths(drawn)[0]
    ((_, label, probability, novelty),) = cells(answers(photo)[1])
    other = {"cat": "dog", "dog": "cat"}[label]
    _, lines, _ = answers("--threshold", 1e-6, photo)
    ((_, first, p, second, q, _),) = cells(lines)
    assert (first, p, second) == (f"*{label}", probability, other)
    assert float(p) + float(q) == pytest.approx(1, abs=2e-4)
    assert cells(answers("--threshold", 0.5, photo)[1]) == [
        [photo, f"*{label}", probability, "", "", novelty]
    ]
    assert answers("--threshold", 1, photo)[1] == [f"{photo}\tunsure\t\t\t\t{novelty}"]
    unsure = strict_json(answers("--threshold", 1, "--json", photo)[1][0])
    assert unsure["label"] is None and unsure["labels"] == []
    assert cells(answers("--top", 5, photo)[1]) == [[photo, label, p, other, q, novelty]]


def on_a_terminal(trained, *arguments, stdout=True, **environment):
    """What predict.py writes to a terminal: stdout and stderr of it, or stderr alone."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (25, 100))
    process = subprocess.Popen(
        [sys.executable, "predict.py", "--model", trained[0], *map(str, arguments)],
        cwd=ROOT,
        stdout=follower if stdout else subprocess.DEVNULL,
        stderr=follower,
        env=users_environment(TERM="xterm", **{"NO_COLOR": "", **environment}),
    )
    os.close(follower)
    output = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            chunk = b""
        if not chunk:
            break
        output += chunk
    os.close(leader)
    return process.wait(), output.decode()


def test_colours_and_progress_bar_are_for_terminals(trained, drawn, photos_dir):
    code, output = on_a_terminal(trained, drawn)
    assert code == 0 and "\x1b[1;3" in output and "\r" not in output.replace("\r\n", "\n")
    assert "\x1b" not in on_a_terminal(trained, drawn, NO_COLOR="1")[1]
    code, output = on_a_terminal(trained, photos_dir, stdout=False)
    assert code == 1 and "predicting:" in output and "photos" in output
    lines = output.replace("\r", "\n").splitlines()
    assert any(line.endswith("got a web page; download the photo itself") for line in lines)


@pytest.fixture(scope="session")
def textbook(tmp_path_factory):
    """A run of the `classic` network with three classes, not trained."""
    run = tmp_path_factory.mktemp("textbook")
    config = {"settings": {"arch": "classic"}, "classes": ["ant", "bee", "cow"], "score_size": 32}
    files.write_json(run / "config.json", config)
    network = model.build("classic", 3, 32)
    write_answer(run, network)
    return run


def test_any_number_of_classes(answers, textbook, drawn):
    photo = paths(drawn)[0]
    _, (line,), (model,) = answers("--json", "--top", 2, photo, model=textbook)
    assert "LiteRT" in model
    line = strict_json(line)
    assert set(line["probabilities"]) == {"ant", "bee", "cow"} and len(line["labels"]) == 2
    assert line["labels"][0] == line["label"]
    ((_, *listed, _),) = cells(answers("--top", 3, photo, model=textbook)[1])
    assert set(listed[::2]) == {"ant", "bee", "cow"}
    assert sorted(listed[1::2], reverse=True) == listed[1::2]


# --- Pictures -------------------------------------------------------------------------------------


def test_explain_draws_each_photo_at_its_own_size(answers, tmp_path, drawn):
    Image.open(paths(drawn)[0]).resize((300, 200)).save(tmp_path / "cat.0.png")
    code, lines, _ = answers("--explain", tmp_path / "why", drawn, tmp_path / "cat.0.png")
    assert code == 0 and len(lines) == 9
    names = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert len(names) == 9 and {"cat.0.jpg", "cat.0-2.jpg", "cat.0-3.jpg"} <= set(names)
    assert Image.open(tmp_path / "why" / "cat.0-3.jpg").size == (300, 200)
    assert Image.open(tmp_path / "why" / "cat.0.jpg").size == (48, 48)


def test_explain_refuses_a_network_whose_regions_are_mixed(textbook, tmp_path, drawn):
    process = run_script("predict.py", "--model", textbook, "--explain", tmp_path / "why", drawn)
    assert process.returncode == 2 and process.stdout == ""
    assert "--explain: expected a network that ends in global average" in process.stderr
    assert "Traceback" not in process.stderr and not (tmp_path / "why").exists()


def test_layers_refuses_a_network_without_convolutions(answers, drawn, tmp_path):
    config = {"settings": {"arch": "dnn"}, "classes": ["ant", "bee"], "score_size": 32}
    files.write_json(tmp_path / "config.json", config)
    Run(tmp_path).save_network(model.build("dnn", 2, 32))
    with pytest.raises(UserError, match="--layers: expected a network with convolutions"):
        answers("--layers", tmp_path / "layers", paths(drawn)[0], model=tmp_path)
    assert not (tmp_path / "layers").exists()


def test_pictures_never_replace_a_file_of_the_user(answers, drawn, tmp_path):
    with pytest.raises(UserError, match="--explain: expected a folder outside"):
        answers("--explain", drawn / "why", drawn)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="--layers: expected a new or empty folder"):
        answers("--layers", tmp_path, paths(drawn)[0])


# --- Kaggle ---------------------------------------------------------------------------------------


def test_a_submission_has_every_id_once_in_the_order_of_numbers(answers, tmp_path, drawn):
    (tmp_path / "test1").mkdir()
    for number, path in zip((1, 2, 10, 11), paths(drawn)[1:5], strict=True):
        shutil.copy(path, tmp_path / "test1" / f"{number}.png")
    (tmp_path / "test1" / "9.jpg").write_text("<html>")
    for metric in ("accuracy", "log-loss"):
        file = tmp_path / f"{metric}.csv"
        code, lines, errors = answers("--kaggle", file, "--metric", metric, tmp_path)
        assert code == 1 and lines == []
        unreadable = 0 if metric == "accuracy" else 0.5
        assert f"id 9 cannot be read and is submitted as {unreadable}" in errors
        rows = list(csv.reader(file.open()))
        assert rows[0] == ["id", "label"]
        assert [row[0] for row in rows[1:]] == ["1", "2", "9", "10", "11"]
        values = {int(number): float(value) for number, value in rows[1:]}
        assert values.pop(9) == unreadable
        if metric == "accuracy":
            assert set(values.values()) <= {0, 1}
            accuracy = values
    assert all((values[i] > 0.5) == accuracy[i] and 0 < values[i] < 1 for i in values)


def test_a_submission_overwrites_no_file(answers, tmp_path, drawn):
    (tmp_path / "test1").mkdir()
    photo = tmp_path / "test1" / "1.png"
    shutil.copy(paths(drawn)[1], photo)
    before = photo.read_bytes()
    with pytest.raises(UserError, match="--kaggle: expected a new file"):
        answers("--kaggle", photo, tmp_path)
    assert photo.read_bytes() == before


# --- Sorting --------------------------------------------------------------------------------------


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_sort_copies_each_photo_into_a_folder_of_its_label(answers, drawn, tmp_path):
    before = {path: path.read_bytes() for path in drawn.rglob("*.png")}
    bad = tmp_path / "page.jpg"
    bad.write_text("<html>")
    code, lines, errors = answers("--sort", tmp_path / "sorted", drawn, bad)
    assert code == 1 and errors[-1].startswith(f"copies in {tmp_path / 'sorted'}: 8 (")
    expected, seen = [], set()
    for path, label, *_ in cells(lines):
        name, count = os.path.splitext(os.path.basename(path))[0], 1
        while (place := f"{label}/{name}{f'-{count}' if count > 1 else ''}.png") in seen:
            count += 1
        seen.add(place)
        expected.append((place, path))
    assert tree(tmp_path / "sorted") == sorted(seen) and len(seen) == 8
    for place, path in expected:
        copied = tmp_path / "sorted" / place
        assert copied.read_bytes() == before[drawn / os.path.relpath(path, drawn)]
        assert copied.stat().st_mtime == os.stat(path).st_mtime
    assert {path: path.read_bytes() for path in drawn.rglob("*.png")} == before


def test_sort_with_a_threshold_has_a_folder_for_the_unsure(answers, drawn, tmp_path):
    code, lines, _ = answers("--sort", tmp_path / "new", "--threshold", 1, "--json", *paths(drawn))
    assert code == 0 and all(strict_json(line)["label"] is None for line in lines)
    names = sorted(os.path.basename(path) for path in paths(drawn))
    assert tree(tmp_path / "new") == [f"unsure/{name}" for name in names]


def test_sort_refuses_a_folder_with_files_and_one_among_the_photos(
    answers, drawn, tmp_path, monkeypatch
):
    photo = paths(drawn)[0]
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="--sort: expected a new or empty folder"):
        answers("--sort", tmp_path, photo)
    with pytest.raises(UserError, match="--sort: expected a folder outside the photos"):
        answers("--sort", drawn / "sorted", drawn)
    assert not (drawn / "sorted").exists()
    with pytest.raises(UserError, match=r"--sort: cannot make .*mine\.txt/new: Not a directory"):
        answers("--sort", tmp_path / "mine.txt" / "new", photo)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root
    with pytest.raises(UserError, match="--sort: expected a folder that can be written to"):
        answers("--sort", tmp_path / "new", photo)


def test_sort_into_a_folder_whose_photos_come_on_stdin_ends(trained, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "photos")
    process = run_script(
        "predict.py", "--model", trained[0], "--sort", folder / "new", "-", input=f"{folder}\n"
    )
    assert process.returncode in (0, 2)
    assert len(tree(folder)) <= 16


def test_sort_on_a_full_disk_ends_in_one_line_and_leaves_no_torn_copy(answers, drawn, tmp_path):
    photo = tmp_path / "cat.0.bmp"
    Image.open(paths(drawn)[0]).save(photo)
    with disk_full_at(1000), pytest.raises(UserError, match=r"--sort: cannot write .*: File too"):
        answers("--sort", tmp_path / "sorted", photo)
    assert tree(tmp_path / "sorted") == []


# --- A network of drawings ------------------------------------------------------------------------


def test_a_network_of_the_demo_says_that_it_knows_drawings_only(answers, trained, drawn, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    settings = Run(run).config["settings"]
    assert not any("drawings" in line for line in answers(paths(drawn)[0])[2])
    config = {**Run(run).config, "settings": {**settings, "recipe": "demo"}}
    files.write_json(run / "config.json", config)
    assert any("knows drawings only" in line for line in answers(paths(drawn)[0], model=run)[2])


# --- Mistakes and interruptions -------------------------------------------------------------------

MISTAKES = {
    "no photo": (["--json"], "PHOTO: expected a file, a folder, or -"),
    "sort and kaggle": (
        ["--kaggle", "x.csv", "--sort", "y"],
        "--kaggle: cannot be combined with --sort",
    ),
    "one folder for all": (
        ["--sort", "x", "--layers", "x", "y"],
        "--layers: expected another folder than --sort",
    ),
    "no probability": (["--threshold", "2", "x"], "--threshold: expected a number above 0"),
    "no count": (["--top", "0", "x"], "--top: expected a whole number"),
    "metric alone": (["--metric", "accuracy", "x"], "--metric: requires --kaggle"),
    "two formats": (["--kaggle", "x.csv", "--json"], "--kaggle: cannot be combined with --json"),
    "one folder for both": (
        ["--explain", "x", "--layers", "./x", "y"],
        "--layers: expected another folder than --explain",
    ),
    "no test photos": (["--kaggle", "x.csv", "--model", "x", "."], "PHOTO: expected the folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2(mistake, tmp_path):
    arguments, words = MISTAKES[mistake]
    process = run_here("predict.py", *arguments, cwd=tmp_path)
    assert process.returncode == 2 and process.stdout == ""
    assert words in process.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_without_arguments_the_script_explains_itself(tmp_path):
    process = run_here("predict.py", cwd=tmp_path)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.count("    python predict.py ") == 2


def test_without_a_model_and_without_the_projects_own_one_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(run_module, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(UserError, match="--model: expected a run directory"):
        predict.main(["photo.jpg"])


def start(trained, *arguments):
    command = [sys.executable, "predict.py", "--model", trained[0], *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=users_environment(),
    )


def test_a_closed_pipe_ends_quietly(trained, photos_dir):
    with start(trained, *[photos_dir / "train"] * 5) as process:
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert len(errors.splitlines()) <= 2  # the model and the web page


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-"])
def test_closed_standard_streams_change_nothing_else(trained, drawn, redirection):
    command = [sys.executable, "predict.py", "--model", trained[0], paths(drawn)[0]]
    line = f"{shlex.join(map(str, command))} {redirection}"
    process = subprocess.run(
        line, shell=True, cwd=ROOT, capture_output=True, text=True, env=users_environment()
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert len(process.stdout.splitlines()) == (0 if redirection == ">&-" else 1)


def test_ctrl_c_ends_within_a_second_with_what_was_done_printed(trained, photos_dir, drawn):
    for arguments in (["-"], [photos_dir / "train"] * 10):
        with start(trained, *arguments) as process:
            # An answer comes before the next path does.
            process.stdin.write(f"{paths(drawn)[0]}\n")
            process.stdin.flush()
            first = process.stdout.readline()
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert process.wait() == 130
            assert time.monotonic() - started < 3  # one, and room for a busy machine
            assert process.stderr.read().splitlines()[-1] == "predict.py: interrupted"
        assert all(len(line) == 4 for line in cells([first, *rest.splitlines()]))


# --- Old runs whose class is called as what is said of a photo ------------------------------------


def test_a_class_called_unknown_is_told_from_an_unknown_photo(tmp_path):
    shares = {"unknown": 0.9, "cat": 0.1}
    (tmp_path / "a.png").touch()
    path = str(tmp_path / "a.png")
    known = Prediction("unknown", 0.9, False, 0.5, shares, path=path)
    novel = Prediction(None, 0.9, True, 0.995, shares, path=path)
    assert lines.text(known) == f"{path}\tunknown (class)\t0.9000\t0.5000"
    assert lines.text(novel) == f"{path}\tunknown\t\t0.9950"
    assert strict_json(lines.json(novel))["label"] is None
    assert explain.title(known) == "unknown (class) 90.0%"
    copies = lines.Copies(tmp_path / "new")
    copies.write(known)
    copies.write(novel)
    assert tree(tmp_path / "new") == ["unknown (class)/a.png", "unknown/a.png"]
    assert str(copies).endswith("new: 2 (1 in unknown, 1 in unknown (class))")
