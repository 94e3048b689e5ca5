"""Each script as a user runs it."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import predict
from catdog import files
from conftest import ROOT, draw_photos, network_file, run_here, run_script


def test_a_run_that_lost_files_is_not_trained_anew(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / "metrics.json").unlink()
    process = run_here("train.py", "--resume", run)
    assert process.returncode == 2 and "checkpoint.npz or metrics.json, got" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_two_hundred_photos_a_class_are_enough_to_learn_from(tmp_path):
    draw_photos(tmp_path / "seen" / "train", 200)
    draw_photos(tmp_path / "others" / "train", 200, seed=1)  # the test split alone has but 40
    process = run_script(
        "train.py",
        "--data-dir",
        "seen",
        "--cache-dir",
        "cache",
        "--image-size",
        48,
        "--epochs",
        12,
        "--output",
        "run",
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    process = run_script(
        "evaluate.py",
        "--model",
        "run",
        "--data-dir",
        "others",
        "--cache-dir",
        "cache",
        "--split",
        "all",
        "--json",
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    score = json.loads(process.stdout)
    assert score["images"] == 400 and score["accuracy"] > 0.65


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["classic", "dnn"])
def test_the_networks_of_the_textbooks_go_through_every_script(arch, photos_dir, tmp_path):
    run, cache = tmp_path / "run", tmp_path / "cache"
    process = run_script(
        "train.py",
        "--data-dir",
        photos_dir,
        "--cache-dir",
        cache,
        "--arch",
        arch,
        "--epochs",
        2,
        "--output",
        run,
    )
    assert process.returncode == 0, process.stderr
    assert f"Network  {arch}, " in process.stderr and "at 64 px, scored at 64 px" in process.stderr
    assert network_file(run, ".tflite").is_file()
    process = run_script(
        "evaluate.py",
        "--model",
        run,
        "--data-dir",
        photos_dir,
        "--cache-dir",
        cache,
        "--output",
        tmp_path / "report",
        "--json",
    )
    assert process.returncode == 0, process.stderr
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert json.loads(process.stdout)["accuracy"] == test["accuracy"]
    process = run_script("predict.py", "--model", run, photos_dir / "train" / "cat.0.png")
    assert process.returncode == 0 and "LiteRT" in process.stderr


def test_training_says_what_it_has_and_ends_with_score_and_next_commands(trained):
    run, process = trained
    assert process.returncode == 0, process.stderr
    for words in (
        "Device",
        "Photos   train",
        "parameters",
        "left 0:00:00",
        "skipped cat.9000.jpg",
        f"python evaluate.py --model {run}",
        f"python predict.py --model {run}",
        "Each epoch was scored without calibration and mirror image.",
    ):
        assert words in process.stderr
    assert "95% interval" in process.stdout
    lines = process.stderr.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 3  # one plain line per epoch
    assert "\r" not in process.stderr and "\x1b" not in process.stderr


def test_a_run_directory_holds_what_the_readme_lists(trained):
    run, _ = trained
    assert {path.name for path in run.iterdir()} >= {
        "config.json",
        "history.csv",
        "curves.png",
        network_file(run).name,
        network_file(run, ".tflite").name,
        "metrics.json",
        "trained_on.npy",
    }
    assert not any(path.name.startswith((".", "checkpoint")) for path in run.iterdir())
    config = json.loads((run / "config.json").read_text())
    assert config["classes"] == ["cat", "dog"] and config["settings"]["epochs"] == 3
    assert sum(config["splits"].values()) == 206 and config["skipped"] == 1
    with open(run / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert Image.open(run / "curves.png").format == "PNG"


def test_evaluate_repeats_the_test_accuracy_of_the_run(trained, photos_dir):
    run, _ = trained
    process = run_script(
        "evaluate.py",
        "--model",
        run,
        "--data-dir",
        photos_dir,
        "--cache-dir",
        run.parent / "cache",
        "--json",
    )
    assert process.returncode == 0, process.stderr
    score = json.loads(process.stdout)
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert {key: score[key] for key in test} == test
    assert set(score) >= {
        "model",
        "split",
        "images",
        "skipped",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "log_loss",
        "roc_auc",
        "confusion_matrix",
        "classes",
        "images_per_second",
    }
    assert score["split"] == "test" and score["skipped"] == 1
    assert sum(map(sum, score["confusion_matrix"])) == score["images"]


@pytest.mark.parametrize("split", ["train", "all"])
def test_evaluate_says_how_many_photos_the_model_was_trained_on(trained, photos_dir, split):
    run, _ = trained
    splits = json.loads((run / "config.json").read_text())["splits"]
    process = run_here(
        "evaluate.py",
        "--model",
        run,
        "--data-dir",
        photos_dir,
        "--cache-dir",
        run.parent / "cache",
        "--split",
        split,
    )
    assert process.returncode == 0
    assert f"trained on {splits['train']:,} of these photos" in process.stderr
    total = splits["train"] if split == "train" else sum(splits.values())
    assert f"{total:,} photos" in process.stdout


def test_predict_prints_a_line_for_each_photo_and_names_those_that_fail(trained, tmp_path):
    run, _ = trained
    good = draw_photos(tmp_path, 2) / "cat.0.png"
    odd = tmp_path / "tab\there\nand line.png"
    odd.write_bytes(good.read_bytes())
    bad = tmp_path / "page.jpg"
    bad.write_text("<html></html>")
    process = run_script("predict.py", "--model", run, good, bad, odd, tmp_path / "missing.jpg")
    assert process.returncode == 1
    lines = [line.split("\t") for line in process.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(good), f"{tmp_path}/tab\\there\\nand line.png"]
    assert all(label in ("cat", "dog") and 0.5 <= float(p) <= 1 for _, label, p, _ in lines)
    assert lines[0][1:] == lines[1][1:]
    errors = process.stderr.splitlines()
    assert len(errors) == 3 and "model" in errors[0]
    assert "got a web page" in errors[1] and "missing.jpg" in errors[2]


def test_a_finished_run_has_nothing_to_resume(trained):
    run, _ = trained
    process = run_here("train.py", "--resume", run)
    assert process.returncode == 0 and "is finished" in process.stderr


MISTAKES = {
    "unknown network": (["train.py", "--arch", "huge"], "--arch: invalid choice: 'huge'"),
    "no number": (["train.py", "--epochs", "many"], "--epochs: expected a whole number"),
    "zero epochs": (["train.py", "--epochs", "0"], "--epochs: expected a whole number from 1"),
    "negative rate": (["train.py", "--lr", "-1"], "--lr: expected a number above 0"),
    "rate that is none": (["train.py", "--lr", "nan"], "--lr: expected a number above 0"),
    "image too small": (
        ["train.py", "--image-size", "16"],
        "--image-size: expected an image size of 32 or more",
    ),
    "resume and more": (
        ["train.py", "--resume", "x", "--lr", "1"],
        "--resume: cannot be combined with --lr",
    ),
    "no run to resume": (["train.py", "--resume", "nowhere"], "--resume: expected a run directory"),
    "demo and photos": (
        ["train.py", "--demo", "--data-dir", "x"],
        "--demo: cannot be combined with --data-dir",
    ),
    "no run to start from": (["train.py", "--init", "x"], "--init: expected a run directory"),
    "weights by hand": (["train.py", "--class-weight", "1,2"], "--class-weight: invalid choice"),
    "missing folder": (["train.py", "--data-dir", "nowhere"], "--data-dir: expected a folder"),
    "hosts without rank": (["train.py", "--hosts", "a:1,b:2"], "--hosts: requires --rank"),
    "no such rank": (["train.py", "--hosts", "a:1,b:2", "--rank", "2"], "--rank: expected a whole"),
    "hosts and cluster": (
        ["train.py", "--hosts", "a:1,b:2", "--rank", "0", "--cluster"],
        "--cluster: cannot be combined with --hosts",
    ),
    "minutes and epochs": (
        ["train.py", "--minutes", "3", "--epochs", "2"],
        "--minutes: cannot be combined with --epochs",
    ),
    "minutes and folds": (
        ["train.py", "--minutes", "3", "--folds", "5"],
        "--minutes: cannot be combined with --folds",
    ),
    "recipe that is gone": (["train.py", "--recipe", "sharp"], "--recipe: invalid choice: 'sharp'"),
    "no port": (["train.py", "--hosts", "a,b", "--rank", "0"], "--hosts: expected HOST:PORT"),
    "hosts of TensorFlow": (
        ["train.py", "--hosts", "a:1,b:2", "--rank", "0"],
        "--hosts: expected KERAS_BACKEND=jax, got the backend tensorflow",
    ),
    "output exists": (["train.py", "--output", "/"], "--output: expected a new folder"),
    "no model": (["evaluate.py", "--model", "nowhere"], "--model: expected a run directory"),
    "model is no run": (["predict.py", "--model", ".", "x"], "--model: expected a run directory"),
    "suspects as in another release": (
        ["data.py", "--suspects", "runs/a"],
        "--suspects: use evaluate.py --model RUN ... --suspects DIR",
    ),
    "unknown split": (["evaluate.py", "--model", "x", "--split", "dev"], "--split: invalid choice"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_that_names_the_argument_and_exit_code_2(mistake, tmp_path):
    command, words = MISTAKES[mistake]
    process = run_here(*command, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stdout == ""
    last = process.stderr.splitlines()[-1]
    assert words in last
    assert "Traceback" not in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_file_that_is_none_is_refused_in_one_line(trained, tmp_path):
    run, _ = trained
    fake = tmp_path / "run"
    fake.mkdir()
    (fake / "config.json").write_text((run / "config.json").read_text())
    (fake / network_file(run).name).write_text("not a model")
    process = run_here("predict.py", "--model", fake, "photo.jpg")
    assert process.returncode == 2
    without_litert, line = process.stderr.splitlines()
    assert "using Keras" in without_litert and "--model: cannot read" in line


def test_a_network_that_does_not_fit_its_classes_is_refused(trained, tmp_path):
    run, _ = trained
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["classes"] = ["ant", "bee", "fly"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    photo = draw_photos(tmp_path, 1) / "cat.0.png"
    process = run_here("predict.py", "--model", tmp_path / "run", photo)
    assert process.returncode == 2 and process.stdout == ""
    assert "expected a network of 3 classes" in process.stderr


def test_a_full_disk_ends_in_one_line(trained, photos_dir):
    run, _ = trained
    photo = photos_dir / "train" / "cat.0.png"
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, ROOT / "predict.py", "--model", run, photo],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.returncode == 2
    assert "cannot write: No space left on device" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_too_little_memory_ends_in_one_line(error, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setattr(predict, "load_classifier", fail)
    process = run_here("predict.py", "cat.jpg")
    assert process.returncode == 2
    reason = str(error) or "MemoryError"
    assert process.stderr == f"predict.py: error: not enough memory: {reason}\n"


def test_ctrl_c_while_keras_is_loaded_ends_in_one_line(photos_dir, tmp_path):
    """A stand-in for Keras signals from amid its import, which takes seconds."""
    (tmp_path / "keras.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    process = run_script(
        "train.py",
        "--data-dir",
        photos_dir,
        "--cache-dir",
        tmp_path / "cache",
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert process.returncode == 130
    assert process.stderr.splitlines()[-1] == "train.py: interrupted" and process.stdout == ""
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py", "data.py", "model.py"])
def test_ctrl_c_while_modules_are_loaded_ends_without_a_traceback(script, tmp_path):
    """A stand-in for argparse, the first module that is loaded, signals from amid its import."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)"
    (tmp_path / "argparse.py").write_text(program)
    process = run_script(script, env={"PYTHONPATH": str(tmp_path)})
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_name_that_is_too_long_is_refused_at_once(script, photos_dir, tmp_path):
    process = run_script(script, "--data-dir", photos_dir, "--output", tmp_path / ("x" * 300))
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.splitlines()[-1] == f"{script}: error: cannot write: File name too long"


def test_temporary_files_lie_in_a_folder_that_is_removed(tmp_path):
    machine = files._machine()
    (tmp_path / f".0123abcd.{machine}.999999999.catdog").mkdir()  # of a process that was killed
    program = """
import os, tempfile
from catdog import cli
cli.run(lambda: print(os.path.dirname(tempfile.mkdtemp()) == os.environ["TMPDIR"]) or 0)
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True,
                             text=True, env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    assert process.stdout == "True\n", process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py", "data.py", "model.py"])
def test_help_loads_neither_keras_nor_tensorflow(script, tmp_path):
    for name in ("keras", "tensorflow", "sklearn", "matplotlib", "jax"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError")
    process = run_script(script, "--help", env={"PYTHONPATH": str(tmp_path)})
    assert process.returncode == 0 and process.stdout.startswith("usage:"), process.stderr


def test_predict_needs_numpy_pillow_and_litert_only(trained, photos_dir, tmp_path):
    for name in ("keras", "tensorflow", "sklearn", "scipy", "matplotlib", "h5py", "jinja2", "tqdm"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError")
    process = run_script("predict.py", "--model", trained[0], photos_dir / "train" / "cat.0.png",
                         env={"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "LiteRT" in process.stderr and len(process.stdout.splitlines()) == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(photos_dir, tmp_path):
    (tmp_path / "keras.py").write_text("raise ModuleNotFoundError(name='keras')")
    process = run_script("train.py", "--data-dir", photos_dir, "--cache-dir", tmp_path / "cache",
                         env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)  # fmt: skip
    assert process.returncode == 2
    expected = "keras, which is not installed: pip install -r requirements.txt"
    assert process.stderr.splitlines()[-1].endswith(expected)


NOTEBOOK = """
import io, logging, runpy, signal, sys, types
sys.modules["IPython"] = types.ModuleType("IPython")
sys.stdout = io.StringIO()  # as in a notebook, one that cannot be reconfigured
for arguments in (["--arch", "dnn"], ["--help"], ["--nonsense"], ["--model", "no", "--page", "x"]):
    sys.argv = ["model.py", *arguments]
    try:
        runpy.run_path("model.py", run_name="__main__")
    except SystemExit:
        assert arguments[0] != "--arch"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not logging.getLogger("catdog").handlers
assert "3,179,009" in sys.stdout.getvalue()
"""


def test_a_notebook_goes_on_after_a_script():
    process = subprocess.run([sys.executable, "-c", NOTEBOOK], cwd=ROOT, capture_output=True)
    assert process.returncode == 0, process.stderr.decode()


def test_the_users_keras_json_changes_no_network(tmp_path):
    (tmp_path / "keras.json").write_text(
        '{"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow"}'
    )
    process = run_script("model.py", "--arch", "plain", env={"KERAS_HOME": str(tmp_path)})
    assert process.returncode == 0 and "3,012,577" in process.stdout, process.stderr
    code = "from catdog.backend import keras; print(keras.Input((4,)).dtype)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                             env={**os.environ, "KERAS_HOME": str(tmp_path)})  # fmt: skip
    assert process.stdout == "float32\n"


def test_importing_our_modules_leaves_ctrl_c_alone():
    code = "import signal, train, predict; print(signal.getsignal(signal.SIGINT).__name__)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "default_int_handler\n"


def test_the_current_folder_may_be_gone(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    command = f"rmdir ../gone; {sys.executable} {ROOT}/predict.py photo.jpg"
    process = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith("error: the current folder no longer exists")
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("stderr", ["/dev/full", "closed", "a reader that left"])
def test_results_come_where_stderr_cannot_be_written_to(stderr, trained, photos_dir):
    command = f"{sys.executable} {ROOT}/predict.py --model {trained[0]} {photos_dir}/train"
    end = {"/dev/full": "2>/dev/full", "closed": "2>&-", "a reader that left": "2> >(true)"}
    process = subprocess.run(
        ["bash", "-c", f"{command} {end[stderr]}"], capture_output=True, text=True, timeout=170
    )
    assert process.returncode == 1  # one of them is no photo
    assert len(process.stdout.splitlines()) == 206


def test_a_limit_on_the_size_of_files_ends_in_one_line(trained, photos_dir, tmp_path):
    command = (
        f"ulimit -f 1; exec {sys.executable} {ROOT}/predict.py --json --model {trained[0]} "
        f"{photos_dir}/train > {tmp_path}/out"
    )
    process = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "cannot write: File too large" in process.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "data.py"])
def test_an_output_among_the_photos_is_refused(script, trained, photos_dir):
    model = ["--model", trained[0]] if script == "evaluate.py" else []
    process = run_here(script, *model, "--data-dir", photos_dir, "--output", photos_dir / "out")
    assert process.returncode == 2
    assert "--output: expected a folder outside the photos" in process.stderr
    assert not (photos_dir / "out").exists()


def test_a_run_whose_photos_cannot_be_used_leaves_no_folder(tmp_path):
    draw_photos(tmp_path / "photos" / "train", 1)  # too few, which is known after decoding
    process = run_here("train.py", "--data-dir", "photos", "--cache-dir", "cache", cwd=tmp_path)
    assert process.returncode == 2
    assert "expected enough photos of every class" in process.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "cache"}


def test_classes_other_than_the_models_are_refused(trained, tmp_path):
    run, _ = trained
    for name in ("ant", "bee"):
        draw_photos(tmp_path / "drawn", 30)
        for number in range(30):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            drawn = tmp_path / "drawn" / f"cat.{number}.png"
            drawn.rename(tmp_path / "data" / name / f"{number}.png")
    process = run_here(
        "evaluate.py",
        "--model",
        run,
        "--data-dir",
        tmp_path / "data",
        "--cache-dir",
        tmp_path / "cache",
    )
    assert process.returncode == 2
    assert "of the classes of the network, cat, dog, got ant, bee" in process.stderr


def test_without_photos_and_network_training_names_the_three_ways_on(tmp_path):
    dead = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    process = run_script("train.py", cwd=tmp_path, env={**dead, "no_proxy": ""})
    assert process.returncode == 2
    assert "cannot download the photos" in process.stderr
    for words in ("kaggle competitions download", "one folder per class", "--demo"):
        assert words in process.stderr
    assert not os.path.exists(tmp_path / "runs")


@pytest.mark.parametrize("script", ["train.py", "model.py"])
def test_a_backend_that_is_not_there_is_named_in_one_line(script, tmp_path):
    draw_photos(tmp_path / "photos" / "train", 60)
    places = ["--data-dir", "photos", "--cache-dir", "cache"]
    process = run_script(script, *places, env={"KERAS_BACKEND": "nonsense"}, cwd=tmp_path)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1 and "KERAS_BACKEND=nonsense" in process.stderr
    assert f"{script}: error: cannot load Keras" in process.stderr  # and no argument is to blame


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_in_a_destructor_ends_the_script(number, code):
    # Python prints and forgets an exception of a destructor; Keras and TensorFlow have many.
    program = f"""
import os, signal, time
from catdog import cli

class Resource:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
        time.sleep(0.01)

def main():
    resource = Resource()
    del resource
    time.sleep(30)

cli.run(main)
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert process.returncode == code, process.stderr


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_that_became_another_error_ends_the_script(number, code):
    program = f"""
import os, signal
from catdog import cli

def main():
    try:
        os.kill(os.getpid(), signal.{number})
    except KeyboardInterrupt:
        raise TypeError("of TensorFlow") from None

cli.run(main)
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert process.returncode == code and len(process.stderr.splitlines()) == 1, process.stderr
