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
from conftest import ROOT

import model
from catdog.runs import run as runs
from catdog.errors import UserError

CASES = int(os.environ.get("BROKEN_MODELS", 40))  # of each kind


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The members of a model.keras that is fine: 3 classes, any image size."""
    run = tmp_path_factory.mktemp("whole")
    runs.save_network(run, model.build("classic", 3, 16, dropout=0.2))
    with zipfile.ZipFile(run / "model.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def run(tmp_path):
    runs.write_json(tmp_path / "config.json", {"classes": ["a", "b", "c"], "score_size": 16})
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


def refused(run, words, load=runs.load_network):
    with pytest.raises(UserError, match=rf"^--model: cannot load .*{words}") as caught:
        load(run / "model.keras")
    assert len(str(caught.value).splitlines()) == 1
    assert not (run / "trace").exists()


def test_what_train_writes_is_loaded(run, whole):
    write(run, whole)
    assert runs.load_network(run / "model.keras").output_shape == (None, 3)


# --- Code -----------------------------------------------------------------------------------------


def test_a_lambda_is_refused(run):
    inputs = keras.Input((16, 16, 3))
    evil = eval(f"lambda x: [open({str(run / 'trace')!r}, 'w'), x][1]")
    code = keras.layers.Lambda(evil, output_shape=(768,))
    network = keras.Model(inputs, keras.layers.Dense(3)(code(keras.layers.Flatten()(inputs))))
    (run / "trace").unlink(missing_ok=True)  # it may run while the network is made
    network.save(run / "model.keras")
    refused(run, "expected the layers of model.py, got keras.layers Lambda")
    # Without the check, and without safe mode, it runs:
    keras.saving.load_model(run / "model.keras", safe_mode=False)(np.zeros((1, 16, 16, 3)))
    assert (run / "trace").exists()


def test_a_custom_class_is_refused_even_where_it_is_registered(run):
    class Evil(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            (run / "trace").touch()

        def call(self, x):
            return x

    inputs = keras.Input((16, 16, 3))
    with keras.saving.custom_object_scope({"stranger>Evil": Evil}):
        keras.saving.register_keras_serializable("stranger")(Evil)
        network = keras.Model(inputs, keras.layers.Dense(3)(Evil()(keras.layers.Flatten()(inputs))))
        network.save(run / "model.keras")
        (run / "trace").unlink()
        try:
            refused(run, "expected the layers of model.py, got .*stranger>Evil")
            keras.saving.load_model(run / "model.keras")  # what Keras itself would do
            assert (run / "trace").exists()
        finally:
            keras.saving.get_custom_objects().clear()


def evil_module(run):
    """A module of which the import leaves a trace."""
    (run / "keras_hub.py").write_text(f"open({str(run / 'trace')!r}, 'w')\nclass Dense: pass\n")


@pytest.mark.parametrize("place", ["layer", "initializer", "activation", "dtype", "argument"])
def test_a_reference_to_a_module_is_refused_before_its_import(run, whole, monkeypatch, place):
    evil_module(run)
    monkeypatch.syspath_prepend(run)
    sys.modules.pop("keras_hub", None)
    evil = {"module": "keras_hub", "class_name": "Dense", "config": {}, "registered_name": None}

    def change(config, layers):
        match place:
            case "layer":
                layers[-1] |= {"module": "keras_hub"}
            case "initializer":
                layers[-1]["config"]["kernel_initializer"] = evil
            case "activation":
                layers[-1]["config"]["activation"] = {
                    **evil,
                    "class_name": "function",
                    "config": "run",
                }
            case "dtype":
                layers[-1]["config"]["dtype"] = evil
            case "argument":
                layers[-1]["inbound_nodes"][0]["kwargs"] = {"mask": evil}

    write(run, with_config(whole, change))
    refused(run, "expected the layers of model.py, got keras_hub")
    with pytest.raises(Exception):  # noqa: B017  Keras refuses it too, after the import
        keras.saving.load_model(run / "model.keras")
    assert (run / "trace").exists() == (place in ("layer", "activation", "argument"))


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
            "a link, 0, to elsewhere",
        ),
        (
            lambda file, path, shape: file.__setitem__(path, h5py.SoftLink("/layers")),
            "a link, 0, to elsewhere",
        ),
        (lambda file, path, shape: file.__setitem__(path, file["layers"]), "under two names"),
        (
            lambda file, path, shape: file.create_dataset(
                path, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
            ),
            "outside the file or packed",
        ),
        (
            lambda file, path, shape: file.create_dataset(
                path, (2**20, 2**20), "f4", chunks=True, compression="gzip"
            ),
            "outside the file or packed",
        ),
        (
            lambda file, path, shape: file.create_dataset(path, (2**20, 2**20), "f4"),
            "without the values",
        ),
    ],
    ids=["external link", "soft link", "loop", "external data", "packed bomb", "hollow bomb"],
)
def test_weights_that_lie_elsewhere_or_swell_are_refused(run, whole, make, words):
    write(run, weights(whole, lambda stored: replace(stored, make)))
    refused(run, words)


def test_a_zip_bomb_is_refused(run, whole):
    write(run, {**whole, "model.weights.h5": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    assert (run / "model.keras").stat().st_size < 2**17
    refused(run, "as Keras stores it, got it compressed")


@pytest.mark.parametrize("name", ["../trace", "/tmp/trace", "assets/x", "config.json"])
def test_members_that_keras_does_not_write_are_refused(run, whole, name):
    write(run, whole)
    with zipfile.ZipFile(run / "model.keras", "a") as archive, pytest.MonkeyPatch.context() as m:
        m.setattr("warnings.warn", lambda *args, **kwargs: None)  # of a name that comes twice
        archive.writestr(name, "{}")
    refused(run, "expected config.json, metadata.json, model.weights.h5 in it")


def test_a_pipe_a_device_and_a_folder_are_refused_without_waiting(run):
    for name in ("model.keras", "model.tflite"):
        for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
            make(run / name)
            if name == "model.keras":
                refused(run, "not a regular file")
            else:
                with pytest.raises(UserError, match=r"model\.tflite: not a regular file"):
                    runs.Classifier(run, litert=True)
            if os.path.isdir(run / name):
                os.rmdir(run / name)
            else:
                os.unlink(run / name)


# --- Networks of other shapes ---------------------------------------------------------------------


def set_units(layers, index, units):
    layers[index]["config"]["units"] = units


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda config, layers: set_units(layers, -1, 4),
            "expected a network of 3 classes, as config.json says, got one of 4 outputs",
        ),
        (
            lambda config, layers: layers[0]["config"].update(batch_shape=[None, 32, 32, 3]),
            "expected photos of 16 px, as config.json says",
        ),
        (lambda config, layers: set_units(layers, 12, 10**9), "values a pixel"),
        (lambda config, layers: layers[2]["config"].update(filters=10**9), "values a pixel"),
        (
            lambda config, layers: layers[12]["build_config"].update(input_shape=[None, 10**12]),
            "expected dense.* for",
        ),
        (
            lambda config, layers: layers[2]["config"].update(data_format="channels_first"),
            "expected channels last",
        ),
        (
            lambda config, layers: layers[5]["inbound_nodes"].append(layers[5]["inbound_nodes"][0]),
            "expected a stack of layers",
        ),
        (
            lambda config, layers: config["config"].update(output_layers=["flatten", 0, 0]),
            "ends in a fully connected layer",
        ),
        (lambda config, layers: config.update(class_name="Sequential"), "expected a functional"),
        (lambda config, layers: layers.__delitem__(slice(None)), "."),
    ],
    ids=[
        "classes",
        "image size",
        "huge dense",
        "huge convolution",
        "huge build",
        "channels first",
        "shared layer",
        "early output",
        "sequential",
        "no layer",
    ],
)
def test_a_network_that_disagrees_or_would_fill_the_memory_is_refused(run, whole, change, words):
    write(run, with_config(whole, change))
    refused(run, words)


def test_weights_that_are_missing_or_of_other_shapes_are_refused(run, whole):
    def transposed(file, path, shape):
        file[path] = np.zeros(shape[::-1], "f4")

    write(run, weights(whole, lambda stored: replace(stored, transposed)))
    refused(run, ".")
    write(run, weights(whole, lambda stored: replace(stored, lambda *missing: None)))
    refused(run, "expected the .* weights of its layers")


def test_a_config_without_end_is_refused(run, whole):
    write(run, {**whole, "config.json": "[" * 100_000 + "]" * 100_000})
    refused(run, ".")
    write(run, {**whole, "config.json": " " * 2**21})
    refused(run, "expected a config.json of up to")
    (run / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not JSON"):
        runs.read_config(run)


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
    expected = runs.load_network(run / "model.keras").get_weights()
    refusals = 0
    for seed in range(CASES):
        (run / "model.keras").write_bytes(broken(content, seed))
        try:
            got = runs.load_network(run / "model.keras").get_weights()
        except UserError:
            refusals += 1
        else:  # the damage was to a date, or outside of all members
            for a, b in zip(expected, got, strict=True):
                np.testing.assert_array_equal(a, b)
    assert refusals > 0.8 * CASES
    for seed in range(CASES):
        name = ("config.json", "model.weights.h5")[seed % 2]
        write(run, {**whole, name: broken(whole[name], seed)})
        try:
            runs.load_network(run / "model.keras")
        except UserError:
            refusals += 1
    assert refusals > 1.1 * CASES


@pytest.fixture(scope="module")
def litert_run(trained, tmp_path_factory):
    """A run with a model.tflite alone, and its bytes."""
    run = tmp_path_factory.mktemp("litert")
    config = json.loads((trained[0] / "config.json").read_text())
    assert len(config["litert_sha256"]) == 64
    runs.write_json(run / "config.json", config)
    return run, (trained[0] / "model.tflite").read_bytes()


def test_a_damaged_litert_file_is_refused_by_its_sum(litert_run):
    run, content = litert_run
    for damaged in {broken(content, seed) for seed in range(200)} - {content}:
        (run / "model.tflite").write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.tflite: (not the file that|not a LiteRT)"):
            runs.Classifier(run, litert=True)
    (run / "model.tflite").write_bytes(content)
    assert runs.Classifier(run, litert=True).runtime == "LiteRT"


def test_a_litert_network_that_disagrees_with_config_json_is_refused(litert_run):
    run, content = litert_run
    (run / "model.tflite").write_bytes(content)
    config = json.loads((run / "config.json").read_text())
    for change, words in (
        ({"score_size": config["score_size"] + 8}, "expected photos of"),
        ({"classes": ["a", "b", "c"]}, "expected a network of 3 classes"),
    ):
        with pytest.raises(UserError, match=f"cannot load .*{words}"):
            runs.litert_runtime(run / "model.tflite", {**config, **change})


LOAD_AND_RUN = """
import sys, numpy as np, resource
from catdog.runs import run as runs
from catdog.errors import UserError
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
try:
    run = runs.Classifier(sys.argv[1], litert=True)
    run.logits(np.zeros((1, run.image_size, run.image_size, 3), np.uint8))
except UserError as error:
    assert "cannot load" in str(error), error
"""


@pytest.mark.slow
def test_a_forged_litert_file_does_no_more_than_end_its_process(litert_run):
    """LiteRT checks a file's structure, not all that it means: a few forged ones crash it."""
    run, content = litert_run
    config = json.loads((run / "config.json").read_text())
    runs.write_json(run / "config.json", {**config, "litert_sha256": None})
    crashes = 0
    try:
        for seed in range(CASES):
            (run / "model.tflite").write_bytes(broken(content, seed))
            process = subprocess.run(
                [sys.executable, "-c", LOAD_AND_RUN, run],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert process.returncode in (0, -6, -7, -8, -11), process.stderr
            crashes += process.returncode < 0
    finally:
        runs.write_json(run / "config.json", config)
    assert crashes <= max(1, CASES // 20)


def test_a_broken_litert_file_without_a_sum_is_refused(litert_run, tmp_path):
    _, content = litert_run
    runs.write_json(tmp_path / "config.json", {"classes": ["cat", "dog"], "score_size": 64})
    for torn in (
        b"",
        b"TFL3",
        content[:100],
        content[: len(content) // 2],
        struct.pack("<I4s", 8, b"TFL3") + bytes(100),
    ):
        (tmp_path / "model.tflite").write_bytes(torn)
        with pytest.raises(UserError, match=r"cannot load .*model\.tflite"):
            runs.Classifier(tmp_path, litert=True)
