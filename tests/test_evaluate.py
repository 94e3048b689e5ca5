"""evaluate.py: reports and comparisons, with networks that were never trained."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import data
import evaluate
import model
from catdog import files
from catdog.errors import UserError
from catdog.runs.run import Run
from catdog.scores import plots, tables
from conftest import change_config, draw_photos, make_run, run_script


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
        make_run(folder / name, config)
        Run(folder / name).save_network(model.build(arch, 2, size))
        Run(folder / name).write_trained_on(dataset.identities(dataset.splits["train"]))
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
    of_classes = ["probability of cat", "probability of dog"]
    assert list(rows[0]) == ["path", "label", "predicted", "probability", "correct", *of_classes]
    for row in rows:
        assert row["probability"] == max(row[name] for name in of_classes)
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
    shown = text.count('class="pictures"')
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


def test_all_photos_of_another_folder_are_scored_however_few(folder, tmp_path, capsys):
    draw_photos(tmp_path / "photos", 3, 40, seed=1)
    for path in [*(tmp_path / "photos").glob("dog*"), tmp_path / "photos/cat.0.png"]:
        path.unlink()
    (tmp_path / "photos/cats").mkdir()
    for path in (tmp_path / "photos").glob("cat.*"):
        path.rename(tmp_path / "photos/cats" / path.name)
    places = ["--data-dir", tmp_path / "photos", "--cache-dir", tmp_path / "cache"]
    with pytest.raises(UserError, match=r"expected photos in the .* split of .*--split all"):
        run(folder, *places, "--split", "test")
    assert run(folder, *places, "--json") == 0
    scored = strict(capsys.readouterr().out)
    assert (scored["images"], scored["split"], scored["trained_on"]) == (2, "all", 0)


def test_one_known_photo_makes_the_held_out_split_the_default(folder, tmp_path, capsys):
    draw_photos(tmp_path / "photos", 40, 40, seed=1)
    places = ["--data-dir", tmp_path / "photos", "--cache-dir", tmp_path / "cache", "--json"]
    known = data.load(folder / "photos", 40, folder / "cache")
    path = known.paths[known.splits["train"][-1]]
    shutil.copy(known.root / path, tmp_path / "photos" / Path(path).name)
    assert run(folder, *places) == 0
    assert strict(capsys.readouterr().out)["split"] == "test"


def test_copies_of_training_photos_under_other_names_raise_a_warning(folder, tmp_path, capsys):
    known = data.load(folder / "photos", 40, folder / "cache")
    for i in known.splits["train"][::4]:
        (tmp_path / "photos" / known.classes[known.labels[i]]).mkdir(parents=True, exist_ok=True)
        copy = tmp_path / "photos" / known.classes[known.labels[i]] / f"new{i}.png"
        shutil.copy(known.root / known.paths[i], copy)
    places = ["--data-dir", tmp_path / "photos", "--cache-dir", tmp_path / "cache", "--json"]
    assert run(folder, *places) == 0
    out, err = capsys.readouterr()
    assert (
        strict(out)["split"] == "all"
        and strict(out)["look_trained_on"] == strict(out)["images"] > 9
    )
    assert strict(out)["trained_on"] == 0
    assert "Warning: the model was trained on" in err


def test_without_data_dir_the_photos_of_the_run_are_scored(folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder / "plain", tmp_path / "run")
    change_config(tmp_path / "run", data_dir=str(folder / "photos"))
    monkeypatch.chdir(tmp_path)
    cache = ["--cache-dir", str(folder / "cache")]
    assert evaluate.main(["--model", "run", *cache, "--json"]) == 0
    scored = strict(capsys.readouterr().out)
    assert scored["split"] == "test" and 0 < scored["images"] < 80


def test_a_network_without_activation_maps_shows_its_photos_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "plot_evaluation", lambda *_: [])
    assert run(folder, "--output", tmp_path / "out", models=["classic"]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("<img ") == text.count('class="pictures"') > 0
    assert "class activation map" not in text


def test_runs_of_different_sizes_are_compared_on_the_same_photos(folder, capsys):
    models = ["classic", "plain", "classic"]
    assert run(folder, "--json", "--split", "all", models=models) == 0
    result = strict(capsys.readouterr().out)
    assert result["images"] == 80 and result["split"] == "all"
    assert [each["model"] for each in result["runs"]] == [str(folder / name) for name in models]
    first, same, _ = result["pairs"]
    assert same["only_first_right"] == same["only_second_right"] == 0 and same["p_value"] == 1
    difference = (first["only_first_right"] - first["only_second_right"]) / 80
    accuracy = [each["accuracy"] for each in result["runs"]]
    assert difference == pytest.approx(accuracy[0] - accuracy[1])
    assert tables.format_comparison(result["runs"], result["pairs"]).count(" against ") == 3


def test_what_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "exists").mkdir()
    with pytest.raises(UserError, match="argument --output: expected a new folder"):
        run(folder, "--output", tmp_path / "exists")

    def stop(*arguments):
        (arguments[5] / "roc.png").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "plot_evaluation", stop)
    with pytest.raises(KeyboardInterrupt):
        run(folder, "--output", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["exists"]


def test_output_of_several_runs_holds_their_comparison(folder, tmp_path, capsys):
    output = tmp_path / "cmp"
    assert run(folder, "--json", "--output", output, models=["plain", "classic"]) == 0
    result = strict(capsys.readouterr().out)
    assert {path.name for path in output.iterdir()} == {"comparison.html", "metrics.json"}
    assert strict((output / "metrics.json").read_text()) == result
    text = (output / "comparison.html").read_text()
    pair = result["pairs"][0]
    differ = pair["only_first_right"] + pair["only_second_right"]
    assert f"different labels to {differ} photos" in text
    assert text.count('class="pictures"') == differ


def test_the_default_is_litert_without_tensorflow_and_the_report_names_it(
    trained, photos_dir, tmp_path
):
    for name in ("keras", "tensorflow", "jax"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError")
    process = run_script(
        "evaluate.py", "--model", trained[0], "--data-dir", photos_dir,
        "--cache-dir", trained[0].parent / "cache", "--output", tmp_path / "report",
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "per second with LiteRT" in process.stderr
    metrics = strict((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["runtime"] == "LiteRT"
    assert metrics["model"] == trained[0].name  # a report is passed on without its maker's folders
    text = (tmp_path / "report" / "report.html").read_text()
    assert '<td data-name="setting">runtime</td><td data-name="value">LiteRT</td>' in text


def test_keras_and_litert_score_the_same(trained, photos_dir, capsys):
    scores = {}
    for runtime in ("keras", "litert"):
        evaluate.main(
            [
                "--model",
                str(trained[0]),
                "--data-dir",
                str(photos_dir),
                "--cache-dir",
                str(trained[0].parent / "cache"),
                "--runtime",
                runtime,
                "--json",
            ]
        )
        scores[runtime] = strict(capsys.readouterr().out)
    assert scores["keras"]["runtime"] == "Keras" and scores["litert"]["runtime"] == "LiteRT"
    assert scores["keras"]["images"] == scores["litert"]["images"]
    assert scores["keras"]["log_loss"] == pytest.approx(scores["litert"]["log_loss"], abs=0.05)


def test_what_a_killed_process_left_is_removed_when_the_report_is_made_again(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(plots, "plot_evaluation", lambda *_: [])
    left = tmp_path / f".0123abcd.{files._machine()}.999999999.rep"
    left.mkdir()
    (left / "half.png").touch()
    (tmp_path / ".0123abcd.mine").mkdir()
    assert run(folder, "--output", tmp_path / "rep") == 0
    assert sorted(os.listdir(tmp_path)) == [".0123abcd.mine", "rep"]


def test_an_unfinished_run_is_named_with_how_to_go_on(folder, tmp_path):
    config = {"settings": {"arch": "plain"}, "classes": ["cat", "dog"], "score_size": 40}
    make_run(tmp_path / "run", config)
    Run(tmp_path / "run").save([{"epoch": 1}], [])
    for script in ("evaluate.py", "predict.py"):
        process = run_script(script, "--model", tmp_path / "run", *["x"][: script[0] == "p"])
        assert process.returncode == 2 and len(process.stderr.splitlines()) == 1
        assert "--model: expected a finished run" in process.stderr
        assert f"to continue it:  python train.py --resume {tmp_path}/run" in process.stderr


@pytest.fixture
def of_fold_three(folder, tmp_path):
    config = Run(folder / "classic").config
    make_run(tmp_path / "run", {**config, "settings": {"arch": "classic", "fold": 3}})
    Run(tmp_path / "run").save_network(model.build("classic", 2, 32))
    return tmp_path / "run"


def test_runs_of_different_folds_are_pooled_when_asked_for(folder, of_fold_three, capsys):
    models = ["classic", of_fold_three]
    with pytest.raises(UserError, match="--model: the runs must be scored on the same photos"):
        run(folder, models=models)
    splits = [data.load(folder / "photos", 32, folder / "cache", fold=i).splits for i in (0, 3)]
    held_out = {i for split in splits for i in (*split["validation"], *split["test"])}
    assert run(folder, "--pool", "--json", models=models) == 0
    pooled = strict(capsys.readouterr().out)
    assert pooled["split"] == "held out" and pooled["images"] == len(held_out)
    with pytest.raises(SystemExit):
        run(folder, "--pool", "--split", "train", models=models)


def test_suspects_are_written_for_the_held_out_photos(folder, tmp_path, capsys):
    assert run(folder, "--suspects", tmp_path / "suspects", models=["classic"]) == 0
    sizes = data.load(folder / "photos", 32, folder / "cache").split_sizes()
    out = capsys.readouterr().out
    assert f"of {sizes['validation'] + sizes['test']} labels are wrong" in out
    names = {path.name for path in (tmp_path / "suspects").iterdir()}
    assert names == {"suspects.csv", "suspects.html", "suspects.png"}
    with pytest.raises(UserError, match="--suspects: expected a new folder"):
        run(folder, "--suspects", tmp_path / "suspects", models=["classic"])
