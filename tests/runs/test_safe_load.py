"""Model files from a stranger: each hostile one is refused with the reason, and leaves no trace."""

import io
import json
import os
import random
import struct
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

import model
from catdog import files
from catdog.errors import UserError
from catdog.runs.classifier import Classifier, LiteRT
from catdog.runs.run import WEIGHTS, Run
from conftest import ROOT, network_file, write_answer

CASES = int(os.environ.get("BROKEN_MODELS", 40))  # of each kind
SETTINGS = {"arch": "classic"}
CONFIG = {"settings": SETTINGS, "classes": ["a", "b", "c"], "score_size": 16}


@pytest.fixture(scope="module")
def network():
    return model.build("classic", 3, 16, dropout=0.2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, network):
    """The members of a model.keras as train.py writes it: 3 classes, 16 px."""
    folder = tmp_path_factory.mktemp("whole")
    Run(folder).save_network(network)
    with zipfile.ZipFile(folder / "model.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def run(tmp_path):
    files.write_json(tmp_path / "config.json", CONFIG)
    return tmp_path


def write(run, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(run / "model.keras", "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def with_config(whole, change):
    """The members with `change(config)` applied to the config.json of the network."""
    config = json.loads(whole["config.json"])
    change(config, config["config"]["layers"])
    return {**whole, "config.json": json.dumps(config)}


def refused(run, words):
    with pytest.raises(UserError, match=rf"^cannot read .*{words}") as caught:
        model.load(run)
    assert len(str(caught.value).splitlines()) == 1
    assert not (run / "trace").exists()


def assert_loaded(run, network):
    loaded = model.load(run).network
    for a, b in zip(loaded.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in network.layers]
    assert not (run / "trace").exists()


def test_what_train_writes_is_loaded(run, whole, network):
    write(run, whole)
    assert_loaded(run, network)


def test_keras_itself_loads_what_train_writes(run, whole, network):
    write(run, whole)
    loaded = keras.saving.load_model(run / "model.keras")
    for a, b in zip(loaded.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- The architecture in the file, which is never read --------------------------------------------


def evil_module(run, name="keras_hub"):
    """A module of which the import leaves a trace."""
    (run / f"{name}.py").write_text(f"open({str(run / 'trace')!r}, 'w')\nclass Dense: pass\n")


def name_a_module(module, place):
    evil = {"module": module, "class_name": "Dense", "config": {}, "registered_name": None}

    def change(config, layers):
        match place:
            case "first layer":
                layers[0] |= {"module": module}
            case "last layer":
                layers[-1] |= {"module": module}
            case "initializer":
                layers[-1]["config"]["kernel_initializer"] = evil
            case "activation":
                of_function = {"class_name": "function", "config": "run"}
                layers[-1]["config"]["activation"] = evil | of_function
            case "dtype":
                layers[-1]["config"]["dtype"] = evil
            case "argument":
                layers[-1]["inbound_nodes"][0]["kwargs"] = {"mask": evil}
            case "network":
                config |= {"module": module, "class_name": "system"}

    return change


PLACES = (
    "first layer", "last layer", "initializer", "activation", "dtype", "argument", "network",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_module_that_the_file_names_is_not_imported(run, whole, network, monkeypatch, place):
    evil_module(run)
    monkeypatch.syspath_prepend(run)
    sys.modules.pop("keras_hub", None)
    write(run, with_config(whole, name_a_module("keras_hub", place)))
    assert_loaded(run, network)
    if place == "first layer":  # what Keras itself does
        with pytest.raises(Exception):  # noqa: B017
            keras.saving.load_model(run / "model.keras")
        assert (run / "trace").exists()


def test_a_function_that_the_file_names_is_not_called(run, whole, network, monkeypatch):
    called = []
    monkeypatch.setattr(os, "system", called.append)
    write(run, with_config(whole, name_a_module("os", "network")))
    assert_loaded(run, network)
    assert called == []


def pool_for_minutes(config, layers):
    layers[6]["config"] |= {"pool_size": [4096, 4096], "strides": [1, 1], "padding": "same"}


def broadcast_the_batch(config, layers):
    layers[1]["config"]["scale"] = np.ones((25_000, 1, 1, 1)).tolist()


@pytest.mark.parametrize("change", [pool_for_minutes, broadcast_the_batch])
def test_layers_of_the_file_are_not_made(run, whole, network, change):
    write(run, with_config(whole, change))
    assert_loaded(run, network)
    assert model.load(run).network.predict_on_batch(np.zeros((2, 16, 16, 3))).shape == (2, 3)


@pytest.mark.parametrize("config", ["", "[" * 100_000, "null", " " * 2**21])
def test_an_architecture_that_is_no_json_does_not_matter(run, whole, network, config):
    write(run, {**whole, "config.json": config})
    assert_loaded(run, network)


# --- Files that reach out or swell ----------------------------------------------------------------


def weights(whole, change):
    """The members with `change(h5py.File)` applied to the weights."""
    file = io.BytesIO(whole["model.weights.h5"])
    with h5py.File(file, "r+") as stored:
        change(stored)
    return {**whole, "model.weights.h5": file.getvalue()}


def replace(stored, make):
    """Puts something else in the place of the kernel of the last layer."""
    path = "layers/dense_1/vars/0"
    shape = stored[path].shape
    del stored[path]
    make(stored, path, shape)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda file, path, shape: file.__setitem__(path, h5py.ExternalLink("secret.h5", "/x")),
            "expected 10 arrays",
        ),
        (
            lambda file, path, shape: file.__setitem__(path, h5py.SoftLink("/layers")),
            "expected 10 arrays",
        ),
        (lambda file, path, shape: file.__setitem__(path, file["layers"]), "expected 10 arrays"),
        (
            lambda file, path, shape: file.create_dataset(
                path, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
            ),
            "could not be loaded",
        ),
        (
            lambda file, path, shape: file.create_dataset(
                path, (2**20, 2**20), "f4", chunks=True, compression="gzip"
            ),
            "of other shapes",
        ),
        (
            lambda file, path, shape: file.create_dataset(path, (2**20, 2**20), "f4"),
            "of other shapes",
        ),
    ],
    ids=["external link", "soft link", "loop", "external data", "packed bomb", "hollow bomb"],
)
def test_weights_that_lie_elsewhere_or_swell_are_refused(run, whole, make, words):
    write(run, weights(whole, lambda stored: replace(stored, make)))
    refused(run, words)


def test_a_zip_bomb_is_refused(run, whole):
    config = {**CONFIG, "settings": {"arch": "plain"}, "score_size": 32}
    files.write_json(run / "config.json", config)
    write(run, {**whole, "model.weights.h5": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    assert (run / "model.keras").stat().st_size < 2**17
    refused(run, "expected weights of up to")


@pytest.mark.parametrize("name", ["../trace", "/tmp/trace", "assets/x", "config.json"])
def test_members_that_keras_does_not_write_are_not_read(run, whole, network, name):
    write(run, whole)
    with zipfile.ZipFile(run / "model.keras", "a") as archive, pytest.MonkeyPatch.context() as m:
        m.setattr("warnings.warn", lambda *args, **kwargs: None)  # of a name that comes twice
        archive.writestr(name, "{}")
    assert_loaded(run, network)


def test_a_pipe_a_device_and_a_folder_are_refused_without_waiting(run):
    for name in ("model.keras", "model.tflite"):
        for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
            make(run / name)
            if name == "model.keras":
                refused(run, "not a regular file")
            else:
                with pytest.raises(UserError, match=r"model\.tflite: not a regular file"):
                    Classifier(run)
            if os.path.isdir(run / name):
                os.rmdir(run / name)
            else:
                os.unlink(run / name)


def test_more_bytes_than_the_network_needs_are_refused_before_they_are_read(run, whole):
    write(run, {**whole, "model.weights.h5": bytes(2**22)})
    refused(run, "expected weights of up to")


def test_a_virtual_dataset_is_refused(run, whole):
    def virtual(file, path, shape):
        layout = h5py.VirtualLayout(shape, "f4")
        layout[:] = h5py.VirtualSource("secret.h5", "x", shape)
        file.create_virtual_dataset(path, layout)

    write(run, weights(whole, lambda stored: replace(stored, virtual)))
    refused(run, "could not be loaded")


# --- Networks of other shapes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["a", "b"]},
        {"classes": ["a", "b", "c", "d"]},
        {"score_size": 20},
        {"score_size": 1024},
        {"settings": {"arch": "plain"}, "score_size": 32},
        {"settings": {"arch": "dnn"}},
    ],
    ids=str,
)
def test_a_network_that_disagrees_with_config_json_is_refused(run, whole, change):
    write(run, whole)
    files.write_json(run / "config.json", {**CONFIG, **change})
    refused(run, "expected ")


@pytest.mark.parametrize("arch", ["huge", None, 3, ["plain"], {}])
def test_a_network_that_model_py_does_not_have_is_refused(run, whole, arch):
    write(run, whole)
    files.write_json(run / "config.json", {**CONFIG, "settings": {"arch": arch}})
    with pytest.raises(UserError, match=r"expected (one of the networks plain, classic, dnn|arch)"):
        model.load(run)


def test_a_large_network_is_not_made_for_a_small_file(run, whole, monkeypatch):
    write(run, whole)
    files.write_json(run / "config.json", {**CONFIG, "score_size": 1024})  # 2 GB of weights
    build = model.build

    def build_small(arch, classes, size, *more):
        return build(arch, classes, size, *more) if size < 200 else pytest.fail("it was made")

    monkeypatch.setattr(model, "build", build_small)
    refused(run, "expected a network for photos of 1024 px, got a smaller file")


def test_weights_that_are_missing_or_of_other_shapes_are_refused(run, whole):
    def transposed(file, path, shape):
        file[path] = np.zeros(shape[::-1], "f4")

    write(run, weights(whole, lambda stored: replace(stored, transposed)))
    refused(run, "expected 10 arrays of the network classic, got 10 of other shapes")
    write(run, weights(whole, lambda stored: replace(stored, lambda *missing: None)))
    refused(run, "expected 10 arrays of the network classic, got 9")


def test_shapes_in_another_order_are_refused(run, whole):
    def swapped(stored):
        last, before = stored["layers/dense_1/vars"], stored["layers/dense/vars"]
        last.move("1", "2")
        before.move("1", "/layers/dense_1/vars/1")
        last.move("2", "/layers/dense/vars/1")

    write(run, weights(whole, swapped))
    refused(run, ".")


# --- Damage ---------------------------------------------------------------------------------------


def broken(content, seed):
    """Some bytes flipped, overwritten, inserted or cut, half of it where the structure is."""
    rng = random.Random(seed)
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        end = len(content)
        place = rng.choice(
            [
                rng.randrange(end),
                rng.randrange(min(end, 4096)),
                max(0, end - 1 - rng.randrange(4096)),
            ]
        )
        match rng.randrange(4):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                content[place : place + 4] = rng.choice(
                    [bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", rng.randbytes(4)]
                )
            case 2:
                content[place:place] = rng.randbytes(rng.randint(1, 40))
            case 3 if rng.random() < 0.3:
                del content[place:]
    return bytes(content)


def test_damaged_networks_are_loaded_whole_or_refused(run, whole):
    """In the archive, its checksums show the damage; in its members, checksums are right."""
    write(run, whole)
    content = (run / "model.keras").read_bytes()
    expected = model.load(run).network.get_weights()
    refusals = 0
    for seed in range(CASES):
        (run / "model.keras").write_bytes(broken(content, seed))
        try:
            got = model.load(run).network.get_weights()
        except UserError:
            refusals += 1
        else:  # the damage was to a date, to config.json, or outside of all members
            for a, b in zip(expected, got, strict=True):
                np.testing.assert_array_equal(a, b)
    assert refusals > 0.7 * CASES
    refusals = 0
    for seed in range(CASES):
        write(run, {**whole, "model.weights.h5": broken(whole["model.weights.h5"], seed)})
        try:
            model.load(run)
        except UserError:
            refusals += 1
    assert refusals > 0.4 * CASES  # the others have other numbers of the same shapes


@pytest.fixture(scope="module")
def litert_run(tmp_path_factory):
    """A run with the .tflite file of `weights` alone, that file, and its bytes."""
    run = tmp_path_factory.mktemp("litert")
    files.write_json(run / "config.json", Run(WEIGHTS).config)
    return run, network_file(run, ".tflite"), network_file(WEIGHTS, ".tflite").read_bytes()


def test_a_damaged_litert_file_is_refused_by_its_sum(litert_run):
    run, path, content = litert_run
    for damaged in {broken(content, seed) for seed in range(200)} - {content}:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"\.tflite: its sha256 is not"):
            Classifier(run)
    path.write_bytes(content)
    assert Classifier(run).runtime == "LiteRT"


def test_weights_of_another_run_are_refused_by_their_sum(run, network, whole):
    write_answer(run, network)
    path = network_file(run)
    model.load(run)
    path.write_bytes(path.read_bytes().replace(b"keras_version", b"Keras_version"))
    refused(run, "its sha256 is not that of config.json")


def test_a_litert_network_that_disagrees_with_config_json_is_refused(litert_run):
    run, path, content = litert_run
    path.write_bytes(content)
    config = json.loads((run / "config.json").read_text())
    for change, words in (
        ({"score_size": config["score_size"] + 8}, "expected photos of"),
        ({"classes": ["a", "b", "c"]}, "expected a network of 3 classes"),
    ):
        with pytest.raises(UserError, match=f"cannot read .*{words}"):
            LiteRT(path, {**config, **change})


LOAD_AND_RUN = """
import os, resource, signal, sys
import numpy as np
from catdog.runs.classifier import Classifier
from catdog.errors import UserError

def load_and_run():
    signal.alarm(60)
    try:
        run = Classifier(sys.argv[1])
        run.outputs(np.zeros((1, run.score_size, run.score_size, 3), np.uint8))
    except UserError as error:
        assert "cannot read" in str(error) or "finite" in str(error), error

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for content in sys.argv[2:]:
    os.replace(content, f"{sys.argv[1]}/model.tflite")
    if not (child := os.fork()):
        load_and_run()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_a_forged_litert_file_does_no_more_than_end_its_process(litert_run, tmp_path):
    """LiteRT checks a file's structure, not all that it means: a few forged ones crash it."""
    run, _, content = litert_run
    config = json.loads((run / "config.json").read_text())
    files.write_json(tmp_path / "config.json", {**config, "files": {}})
    for seed in range(CASES):
        (tmp_path / str(seed)).write_bytes(broken(content, seed))
    process = subprocess.run(
        [sys.executable, "-c", LOAD_AND_RUN, tmp_path, *(tmp_path / str(n) for n in range(CASES))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    codes = list(map(int, process.stdout.split()))
    assert len(codes) == CASES and set(codes) <= {0, -6, -7, -8, -11}, process.stderr
    assert sum(code < 0 for code in codes) <= max(1, CASES // 20)


def test_a_broken_litert_file_without_a_sum_is_refused(litert_run, tmp_path):
    *_, content = litert_run
    files.write_json(tmp_path / "config.json", {**CONFIG, "classes": ["cat", "dog"]})
    for torn in (
        b"",
        b"TFL3",
        content[:100],
        content[: len(content) // 2],
        struct.pack("<I4s", 8, b"TFL3") + bytes(100),
    ):
        (tmp_path / "model.tflite").write_bytes(torn)
        with pytest.raises(UserError, match=r"cannot read .*model\.tflite"):
            Classifier(tmp_path)
