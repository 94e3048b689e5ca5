"""What the tests share: small drawn data sets in temporary folders, and a run trained on one."""

import contextlib
import importlib
import io
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A shell has its background jobs ignore Ctrl-C, and the processes that they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

import model  # noqa: E402  found through a line above
from catdog import cli  # noqa: E402
from catdog.errors import UserError  # noqa: E402
from catdog.photos import drawings  # noqa: E402
from catdog.runs import export  # noqa: E402
from catdog.runs.run import Run  # noqa: E402


def draw_photos(folder, per_class, size=48, seed=0):
    """Draws `per_class` cats and dogs into `folder` as cat.0.png, dog.0.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(("cat", "dog")):
        for number in range(per_class):
            rng = np.random.default_rng((seed, label, number))
            drawings.draw(label, rng, size).save(folder / f"{name}.{number}.png")
    return folder


def run_script(*arguments, cwd=ROOT, timeout=170, **options):
    """Runs a script as a user does: `run_script("train.py", "--demo")`."""
    script, *rest = map(str, arguments)
    command = [sys.executable, str(ROOT / script), *rest]
    environment = users_environment(**options.pop("env", {}))
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout,
        **options,
    )  # fmt: skip


def run_here(script, *arguments, cwd=ROOT):
    """Does what `run_script` does within this process, for what no process is needed to show."""
    module = importlib.import_module(script.removesuffix(".py"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logger = logging.getLogger("catdog")
    log_handlers = list(logger.handlers)
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        patch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as ended:
            cli.run(module.main)
    logger.handlers[:] = log_handlers
    for number, handler in handlers.items():
        signal.signal(number, handler)
    texts = [stream.buffer.getvalue().decode() for stream in (stdout, stderr)]
    return subprocess.CompletedProcess(sys.argv, ended.value.code, *texts)


def users_environment(**more):
    """The environment without what is set above for TensorFlow within the tests."""
    environment = dict(os.environ)
    del environment["TF_CPP_MIN_LOG_LEVEL"]
    return {**environment, "COLUMNS": "100", **more}


@contextlib.contextmanager
def disk_full_at(size):
    """Lets no file grow beyond `size` bytes, by the system's own limit, in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def photos_dir(tmp_path_factory):
    """103 cats and 103 dogs in Kaggle's layout, and a web page named .jpg among them."""
    root = tmp_path_factory.mktemp("photos")
    draw_photos(root / "train", 103)
    (root / "train" / "cat.9000.jpg").write_text("<html>not found</html>")
    return root


@pytest.fixture(scope="session")
def trained(photos_dir, tmp_path_factory):
    """(run directory, finished process of train.py), of three epochs at 48 px."""
    folder = tmp_path_factory.mktemp("runs")
    process = run_script(
        "train.py",
        "--data-dir",
        photos_dir,
        "--cache-dir",
        folder / "cache",
        "--image-size",
        48,
        "--epochs",
        3,
        "--output",
        folder / "run",
    )
    return folder / "run", process


def two_convolutions(inputs, outputs, dropout):
    """The network `plain` cut down to two of its ten convolutions; every kind of layer stays."""
    x = model.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = model.conv(x, 32, pool=True)
    x = model.conv(x, 64)
    x = model.layers.GlobalAveragePooling2D()(x)
    x = model.layers.Dropout(dropout)(x)
    return model.output(x, outputs)


@pytest.fixture(scope="module")
def small_plain():
    """Puts `two_convolutions` in the place of `plain`: a run takes a third of the time.

    `trained` and the runs of test_kill.py are of the whole network.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.ARCHITECTURES, "plain", two_convolutions)
        yield


def make_run(folder, config):
    """Make a run directory with its `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    Run(folder).write_config(config)
    return Run(folder)


def change_config(folder, **changes):
    run = Run(folder)
    run.write_config({**run.config, **changes})


def network_file(folder, suffix=".keras"):
    """The file of a run that holds its network."""
    return Run(folder).network_file(suffix)


def write_answer(folder, network, constants=None, photos=0, scores=0):
    """Write an untrained network into a run, with an answer, as both files; return the graph."""
    from catdog.runs import answer

    config = Run(folder).config
    graph = answer.Graph(network, config["score_size"], photos=photos, scores=scores)
    graph.answer.set(temperature=[config.get("temperature", 1.0)], **(constants or {}))
    new = [folder / "new.keras", folder / "new.tflite"]
    graph.answering.save(new[0])
    # In this process: that of `export.Converter` has to load TensorFlow first.
    graph.answering.export(new[1], format="litert", verbose=False)
    Run(folder).switch(new, answer={"photos": photos, "scores": scores})
    return graph


@pytest.fixture
def no_export(monkeypatch):
    """Runs of this process end without a model.tflite, which takes longer than a short training."""

    class Refusing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, *_):
            raise UserError("not in this test")

    monkeypatch.setattr(export, "Converter", Refusing)


def pytest_sessionfinish(session):
    """A skipped test fails the run of CI: it shows nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
