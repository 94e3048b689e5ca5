"""The networks: shapes, parameter counts, plain layers."""

import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import model
from catdog.errors import UserError
from catdog.runs import export
from catdog.runs.classifier import Classifier
from conftest import make_run, network_file


@pytest.mark.parametrize("arch", model.ARCHITECTURES)
@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (3, 3)])
def test_two_classes_get_one_logit_and_more_classes_one_each(arch, classes, outputs):
    network = model.build(arch, classes, 32)
    assert network(np.zeros((5, 32, 32, 3), np.uint8)).shape == (5, outputs)


def test_plain_network_takes_any_image_size_with_the_same_weights():
    network = model.build("plain", 2, None)
    for size in (32, 40, 64):
        assert network(np.zeros((1, size, size, 3), np.float32)).shape == (1, 1)


def test_plain_network_has_the_stated_number_of_parameters_and_at_most_three_and_a_half_million():
    # Convolutions 9 * in * out, batch norm 4 * out, the output 256 + 1.
    widths = (32, 64, 128, 128, 192, 192, 256, 256, 256, 256)
    expected = sum(9 * a * b + 4 * b for a, b in zip((3, *widths), widths, strict=False))
    assert model.build("plain", 2, None).count_params() == expected + widths[-1] + 1
    assert expected < 3.5e6


def test_classic_network_is_the_textbook_stack():
    network = model.build("classic", 2, 32)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == [
        "InputLayer",
        "Rescaling",
        "Conv2D",
        "ReLU",
        "Conv2D",
        "ReLU",
        "MaxPooling2D",
        "ReLU",
        "Conv2D",
        "ReLU",
        "MaxPooling2D",
        "Flatten",
        "Dense",
        "ReLU",
        "Dropout",
        "Dense",
    ]
    assert network.count_params() == 896 + 9248 + 18496 + (8 * 8 * 64 + 1) * 128 + 129


def test_dnn_has_no_convolution_and_about_the_parameters_of_the_default():
    network = model.build("dnn", 2, model.FIXED_SIZE)
    kinds = {type(layer).__name__ for layer in network.layers}
    assert kinds == {"InputLayer", "Rescaling", "Flatten", "Dense", "ReLU", "Dropout"}
    assert network.count_params() == (64 * 64 * 3 + 1) * 256 + (256 + 1) * 128 + 129


@pytest.mark.parametrize("arch", model.ARCHITECTURES)
def test_a_saved_network_loads_without_custom_objects_and_answers_the_same(arch, tmp_path):
    network = model.build(arch, 2, 32)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(network.predict_on_batch(images), loaded.predict_on_batch(images))


def test_output_is_float32_whatever_the_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = model.build("plain", 2, None)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(network.output.dtype) == "float32"


def test_the_script_prints_the_layers_of_each_network(capsys):
    assert model.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "classes" in line] == [
        "plain, 2 classes, photos of 128 px",
        "classic, 2 classes, photos of 64 px",
        "dnn, 2 classes, photos of 64 px",
    ]
    assert model.main(["--arch", "classic", "--classes", "3", "--image-size", "32"]) == 0
    text = capsys.readouterr().out
    first = next(line for line in text.splitlines() if line.startswith("Conv2D"))
    assert first.split() == ["Conv2D", "3", "x", "3", "32", "x", "32", "x", "32", "896"]
    expected = model.build("classic", 3, 32).count_params()
    assert text.splitlines()[-2].split() == ["total", f"{expected:,}"]


def test_an_export_leaves_out_what_the_run_did_unless_told(photos_dir, tmp_path, monkeypatch):
    seen = []

    def fake_export(run, network, dataset, on_progress):
        label = dataset.labels[dataset.names.index("cat.1")]
        seen.append(([dataset.names[i] for i in dataset.excluded], dataset.classes[label]))

    monkeypatch.setattr(export, "export", fake_export)
    monkeypatch.setattr(model, "load", lambda folder: SimpleNamespace(network=None))
    lists = {"exclude": ["cat.7", "dog.9"], "relabel": {"cat.1": "dog"}}
    make_run(tmp_path / "run", {"classes": ["cat", "dog"], "score_size": 40, **lists})
    (tmp_path / "other").write_text("cat.3\n")
    photos = ["--data-dir", str(photos_dir), "--cache-dir", str(tmp_path / "cache")]
    for more in ([], ["--exclude", str(tmp_path / "other")]):
        with pytest.raises(UserError, match="that LiteRT can run"):
            model.main(["--export", "litert", "--model", str(tmp_path / "run"), *photos, *more])
    assert seen == [(["cat.7", "dog.9"], "dog"), (["cat.3"], "dog")]


def test_the_script_exports_a_run(trained, photos_dir, tmp_path, capsys):
    run = shutil.copytree(trained[0], tmp_path / "run")
    network_file(run, ".tflite").unlink()
    photos = ["--data-dir", str(photos_dir), "--cache-dir", str(trained[0].parent / "cache")]
    assert model.main(["--export", "litert", "--model", str(run), *photos]) == 0
    assert f"wrote {network_file(run, '.tflite')}: " in capsys.readouterr().err
    assert Classifier(run).runtime == "LiteRT"
    with pytest.raises(UserError, match="--data-dir: expected a folder"):
        model.main(["--export", "litert", "--model", str(run), "--data-dir", str(run / "no")])
    with pytest.raises(UserError, match="--model: expected a run directory"):
        model.main(["--export", "litert", "--model", str(tmp_path)])
    with pytest.raises(SystemExit):
        model.main(["--model", str(run)])


def test_an_export_to_litert_asks_which_run_it_replaces(capsys):
    with pytest.raises(SystemExit):
        model.main(["--export", "litert"])
    assert "argument --export: expected --model RUN with litert" in capsys.readouterr().err
