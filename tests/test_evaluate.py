"""evaluate.py: reports and comparisons, with networks that were never trained."""

import csv
import json

import numpy as np
import pytest

import data
import evaluate
import model
from catdog.errors import UserError
from catdog.runs import run as runs
from catdog.scores import metrics as report
from conftest import draw_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """80 drawings, and two runs of untrained networks that take images of different sizes."""
    import keras

    folder = tmp_path_factory.mktemp("evaluate")
    draw_photos(folder / "photos" / "train", 40)
    dataset = data.load(folder / "photos", 40, folder / "cache")
    for name, arch, size in (("plain", "plain", 40), ("classic", "classic", 32)):
        keras.utils.set_random_seed(1)
        config = {
            "settings": {"arch": arch},
            "classes": ["cat", "dog"],
            "score_size": size,
            "temperature": 0.5,
            "exclude": [],
        }
        runs.create(folder / name, config)
        runs.save_network(folder / name, model.build(arch, 2, size))
        runs.write_trained_on(folder / name, dataset)
    return folder


def run(folder, *arguments, models=("plain",)):
    return evaluate.main(
        [
            "--model",
            *(str(folder / name) for name in models),
            "--data-dir",
            str(folder / "photos"),
            "--cache-dir",
            str(folder / "cache"),
            *map(str, arguments),
        ]
    )


def strict(text):
    def refuse(constant):
        raise AssertionError(f"not strict JSON: {constant}")

    return json.loads(text, parse_constant=refuse)


def test_output_holds_report_plots_and_predictions_that_agree(folder, tmp_path, capsys):
    output = tmp_path / "new" / "out"
    assert run(folder, "--output", output, "--json", "--split", "all") == 0
    metrics = strict(capsys.readouterr().out)
    assert strict((output / "metrics.json").read_text()) == metrics
    assert {path.name for path in output.iterdir() if path.suffix != ".png"} == {
        "metrics.json",
        "predictions.csv",
        "report.html",
    }
    assert len(list(output.glob("*.png"))) == 8
    assert [path.name for path in output.parent.iterdir()] == ["out"]

    with open(output / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "predicted", "probability", "correct"]
    assert len({row["path"] for row in rows}) == metrics["images"] == 80
    assert all(row["path"].startswith(row["label"]) for row in rows)
    correct = [int(row["correct"]) for row in rows]
    assert sum(correct) / 80 == metrics["accuracy"]
    assert [row["label"] == row["predicted"] for row in rows] == list(map(bool, correct))
    right = [
        float(row["probability"]) if ok else 1 - float(row["probability"])
        for row, ok in zip(rows, correct, strict=True)
    ]
    assert -np.log(right).mean() == pytest.approx(metrics["log_loss"], abs=1e-4)

    text = (output / "report.html").read_text()
    assert len(text) < 5_000_000
    assert f"<b>{metrics['accuracy']:.2%}</b>" in text and "trained on " in text
    shown = text.count('class="pair"')
    assert shown == 12 + 8 + min(12, 80 - sum(correct))  # each with its class activation map
    assert text.count("<img ") == 8 + 2 * shown == text.count('alt="')


def test_a_split_of_one_class_has_null_and_no_nan(folder, tmp_path, capsys):
    dataset = data.load(folder / "photos", 40, folder / "cache")
    dogs = [dataset.names[i] for i in dataset.splits["test"] if dataset.labels[i] == 1]
    listed = tmp_path / "exclude.txt"
    listed.write_text("\n".join(dogs))
    output = tmp_path / "out"
    assert run(folder, "--exclude", listed, "--output", output, "--json") == 0
    metrics = strict(capsys.readouterr().out)
    assert metrics["roc_auc"] is None and metrics["class_accuracy"][1] is None
    assert metrics["excluded"] == len(dogs) > 0
    assert metrics["images"] == len(dataset.splits["test"]) - len(dogs) > 0
    text = (output / "report.html").read_text()
    pictures_apart = "".join(part.partition('"')[2] for part in text.split("base64,"))
    assert "nan" not in pictures_apart.lower()


def test_a_network_without_activation_maps_shows_its_photos_alone(folder, tmp_path):
    assert run(folder, "--output", tmp_path / "out", models=["classic"]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert 'class="pair alone"' in text and "class activation map" not in text


def test_runs_of_different_sizes_are_compared_on_the_same_photos(folder, capsys):
    models = ["plain", "classic", "plain"]
    assert run(folder, "--json", "--split", "all", models=models) == 0
    result = strict(capsys.readouterr().out)
    assert result["images"] == 80 and result["split"] == "all"
    assert [each["model"] for each in result["runs"]] == [str(folder / name) for name in models]
    first, same, _ = result["pairs"]
    assert same["only_first_right"] == same["only_second_right"] == 0 and same["p_value"] == 1
    difference = (first["only_first_right"] - first["only_second_right"]) / 80
    accuracy = [each["accuracy"] for each in result["runs"]]
    assert difference == pytest.approx(accuracy[0] - accuracy[1])
    assert report.format_comparison(result["runs"], result["pairs"]).count(" against ") == 3


def test_what_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    from catdog.scores import report as page

    (tmp_path / "exists").mkdir()
    with pytest.raises(UserError, match="--output: expected a new folder"):
        run(folder, "--output", tmp_path / "exists")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "render", stop)
    with pytest.raises(KeyboardInterrupt):
        run(folder, "--output", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["exists"]
    with pytest.raises(SystemExit):
        run(folder, "--output", tmp_path / "out", models=["plain", "classic"])
