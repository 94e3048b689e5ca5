"""Training through its public functions."""

import ctypes
import dataclasses
import gc
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

import conftest
import data
import model
import train
from catdog import cli
from catdog.errors import UserError
from catdog.runs.run import Run
from catdog.scores.metrics import wilson
from catdog.training import devices, optimizer, progress
from catdog.training.recipe import RECIPES
from catdog.training.settings import Settings
from conftest import change_config, make_run

SETTINGS = Settings(epochs=3, batch_size=16, image_size=32, precision="float32")
pytestmark = pytest.mark.usefixtures("small_plain")


@pytest.fixture(scope="module")
def dataset(photos_dir, tmp_path_factory):
    return data.load(photos_dir, SETTINGS.score_size, tmp_path_factory.mktemp("cache"))


def new_run(path):
    path.mkdir()
    return path


def identities(dataset, split):
    return dataset.identities(dataset.splits[split])


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """(network, history) of a run that was never stopped."""
    folder = new_run(tmp_path_factory.mktemp("runs") / "whole")
    return train.train(Run(folder), SETTINGS, dataset)


def test_a_resumed_run_ends_with_the_weights_and_history_of_one_never_stopped(
    dataset, whole, tmp_path, monkeypatch, capsys
):
    class Stop(Exception):
        pass

    def stop_after_two(line):
        if line.startswith("epoch   2/"):
            raise Stop

    folder = new_run(tmp_path / "stopped")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(
            progress, "say", stop_after_two
        )  # once epoch 2 is printed, it must not be lost
        train.train(Run(folder), SETTINGS, dataset)
    capsys.readouterr()
    network, rows = train.train(Run(folder), SETTINGS, dataset)
    assert "Resuming at epoch 3 of 3" in capsys.readouterr().err
    for a, b in zip(whole[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_time(rows) == without_time(whole[1])
    # It is no matter of chance that dropout goes on where it stopped.
    assert SETTINGS.dropout > 0
    network = model.build("plain", 2, None, SETTINGS.dropout)
    assert any("seed_generator" in variable.path for variable in network.variables)


def test_the_same_seed_gives_the_same_weights_and_history_to_the_bit(dataset, whole, tmp_path):
    network, rows = train.train(Run(new_run(tmp_path / "again")), SETTINGS, dataset)
    for a, b in zip(whole[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_time(rows) == without_time(whole[1])


def test_a_resumed_run_leaves_the_same_photos_out(photos_dir, tmp_path, monkeypatch):
    seen = []

    def keep(run, settings, dataset):
        seen.append([dataset.names[i] for i in dataset.excluded])
        return 0

    monkeypatch.setattr(train, "train_and_finish", keep)
    listed = tmp_path / "exclude.txt"
    listed.write_text("cat.7\ntrain/dog.9.png\n")
    new = ["--data-dir", photos_dir, "--cache-dir", tmp_path / "cache", "--image-size", 32,
           "--exclude", listed, "--output", tmp_path / "run"]  # fmt: skip
    assert train.main(list(map(str, new))) == 0
    listed.unlink()  # the run keeps the names
    assert train.main(["--resume", str(tmp_path / "run")]) == 0
    assert seen == [["cat.7", "dog.9"]] * 2


@pytest.fixture
def begun(photos_dir, tmp_path, monkeypatch):
    """A run directory and its photos; what is trained further is kept in a list."""
    seen = []
    monkeypatch.setattr(train, "train_and_finish", lambda *opened: seen.append(opened))
    photos = shutil.copytree(photos_dir, tmp_path / "photos")
    folder, places = tmp_path / "run", ["--data-dir", photos, "--cache-dir", tmp_path / "cache"]
    new = [*places, "--image-size", 32, "--output", folder]
    assert train.main(list(map(str, new))) == 0
    return folder, photos, seen


def test_a_run_goes_on_where_its_photos_have_moved(begun, tmp_path):
    folder, photos, seen = begun
    photos.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"--data-dir: expected a folder, got .*photos"):
        train.main(["--resume", str(folder)])
    assert train.main(["--resume", str(folder), "--data-dir", str(tmp_path / "moved")]) == 0
    assert train.main(["--resume", str(folder)]) == 0  # the run keeps the new place
    assert len(seen) == 3


def test_a_resumed_run_takes_the_precision_of_this_machine(begun, monkeypatch):
    folder, _, seen = begun
    for precision in ("mixed_bfloat16", "float32"):
        monkeypatch.setattr(optimizer, "best_precision", lambda _, best=precision: best)
        assert train.main(["--resume", str(folder)]) == 0
        assert seen[-1][1].precision == precision


def test_photos_that_have_changed_are_not_trained_on(begun):
    folder, _, seen = begun
    change_config(folder, digest="0" * 16)
    with pytest.raises(UserError, match=r"--resume: the photos in .* are not those"):
        train.main(["--resume", str(folder)])
    assert len(seen) == 1


def test_a_config_changed_by_hand_is_put_right(begun):
    folder, *_ = begun
    before = Run(folder).config
    change_config(folder, classes=["dog", "cat"], score_size=77)
    assert train.main(["--resume", str(folder)]) == 0
    assert Run(folder).config == before


def test_no_run_is_left_where_photos_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="--data-dir: "):
        train.main(["--data-dir", str(tmp_path / "photos"), "--output", str(tmp_path / "new")])
    assert not any(tmp_path.iterdir())


def test_a_run_that_lost_its_checkpoint_is_not_trained_anew(begun):
    folder, *_ = begun
    (folder / "model.keras").touch()
    with pytest.raises(UserError, match=r"--resume: expected a run with a checkpoint\.npz or"):
        train.main(["--resume", str(folder)])


def test_epochs_of_a_finished_run_are_added_by_a_new_one(trained, capsys):
    assert train.main(["--resume", str(trained[0]), "--epochs", "60"]) == 0
    assert f"train.py --init {trained[0]} --epochs 60" in capsys.readouterr().err


def test_folds_go_on_with_the_settings_of_the_first_call(photos_dir, tmp_path, monkeypatch, capsys):
    def begin(run, *_):
        run.save([{"epoch": 1}], [])

    monkeypatch.setattr(train, "train_and_finish", begin)
    (out := tmp_path / "out.txt").write_text("cat.1\n")
    command = ["--data-dir", str(photos_dir), "--cache-dir", str(tmp_path / "cache"), "--folds",
               "5", "--exclude", str(out), "--image-size", "32", "--output",
               str(tmp_path / "folds")]  # fmt: skip
    assert train.main([*command, "--epochs", "7"]) == 0
    hint = f"evaluate.py --cache-dir {tmp_path / 'cache'} --exclude {out} --pool --model {tmp_path}"
    assert hint in capsys.readouterr().err
    assert train.main([*command, "--epochs", "7"]) == 0
    with pytest.raises(UserError, match=r"--folds: expected epochs 7, with which .* got 64"):
        train.main(command)
    ten = ["10" if each == "5" else each for each in command]
    with pytest.raises(UserError, match=r"--folds: expected fold 2, with which .*fold-1 was begun"):
        train.main([*ten, "--epochs", "7"])


def test_classes_that_no_run_can_have_are_refused_before_training(begun, tmp_path):
    _, photos, seen = begun
    names = sorted(path.name for path in (photos / "train").glob("*.png"))
    rows = "".join(f"{name},{'a/b' if name[0] == 'c' else 'dog'}\n" for name in names)
    (photos / "train" / "labels.csv").write_text(f"file,label\n{rows}")
    with pytest.raises(UserError, match="expected classes to be 2 to 1000 distinct names"):
        train.main(["--data-dir", str(photos / "train"), "--cache-dir", str(tmp_path / "cache"),
                    "--image-size", "32", "--output", str(tmp_path / "new")])  # fmt: skip
    assert len(seen) == 1 and not (tmp_path / "new").exists()


# --- Bad numbers ----------------------------------------------------------------------------------


class Poison(keras.callbacks.Callback):
    """Puts a value into a bias after a step of an epoch, both counted from 1."""

    def __init__(self, value, epoch, step):
        super().__init__()
        self.value, self.place = value, (epoch, step)

    @classmethod
    def instead_of_the_bar(cls, monkeypatch, *args):
        monkeypatch.setattr(train.progress, "bar", lambda *_: cls(*args))

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.place:
            bias = self.model.trainable_variables[-1]
            bias.assign(keras.ops.full(bias.shape, self.value))


def test_numbers_that_are_not_finite_stop_the_run_and_the_last_good_checkpoint_stays(
    dataset, whole, tmp_path, monkeypatch
):
    steps = len(dataset.splits["train"]) // SETTINGS.batch_size
    folder = new_run(tmp_path / "run")
    Poison.instead_of_the_bar(monkeypatch, np.inf, 2, 3)
    with pytest.raises(UserError) as caught:
        train.train(Run(folder), SETTINGS, dataset)
    assert "expected a finite loss and finite weights, got nan or inf in epoch 2" in str(
        caught.value
    )
    assert f"--lr, here {SETTINGS.lr:g}" in str(caught.value)
    good = (folder / "checkpoint.npz").read_bytes()
    # After the last step no loss tells of it, but the weights do.
    Poison.instead_of_the_bar(monkeypatch, np.nan, 2, steps)
    with pytest.raises(UserError, match="finite weights, got nan or inf in epoch 2"):
        train.train(Run(folder), SETTINGS, dataset)
    assert (folder / "checkpoint.npz").read_bytes() == good
    monkeypatch.undo()
    network, rows = train.train(Run(folder), SETTINGS, dataset)
    for a, b in zip(whole[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_time(rows) == without_time(whole[1])


def test_a_network_that_knows_one_class_only_for_two_epochs_brings_a_warning(
    dataset, tmp_path, capsys, monkeypatch
):
    settings = dataclasses.replace(SETTINGS, lr=1e-9, weight_decay=0.0, epochs=4, warmup=0.3)
    Poison.instead_of_the_bar(monkeypatch, 1e3, 1, 1)
    train.train(Run(new_run(tmp_path / "run")), settings, dataset)
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith(("epoch", "Warning"))
    ]
    said = [line.split("/")[0].split(":")[0] for line in lines]
    # While the learning rate rises, as in the first epoch, it says nothing.
    assert said == ["epoch   1", "epoch   2", "epoch   3", "Warning", "epoch   4"]
    assert (
        "for 2 epochs the network has predicted the same class for every validation photo"
        in lines[3]
    )


def test_a_signal_that_was_swallowed_ends_training_at_the_next_step(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "stopped_by", signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train.train(Run(new_run(tmp_path / "run")), SETTINGS, dataset)
    with pytest.raises(KeyboardInterrupt), devices.memory_errors_explained(SETTINGS):
        raise TypeError("of TensorFlow, in place of the KeyboardInterrupt")


def test_no_better_than_the_most_frequent_class_is_at_chance():
    for correct, chance in ((62, True), (95, False)):
        score = {"confusion_matrix": [[60, 0], [40, 0]], "accuracy_low": wilson(correct, 100)[0]}
        assert progress.is_at_chance(score) == chance


def test_curves_are_drawn_at_most_once_a_minute(tmp_path, monkeypatch):
    path, drawn = tmp_path / "curves.png", []
    monkeypatch.setattr(
        progress.plots, "plot_history", lambda rows, path: drawn.append(len(rows)) or path.touch()
    )
    progress.draw_curves(Run(tmp_path), [{}])
    progress.draw_curves(Run(tmp_path), [{}, {}])
    os.utime(path, (0, 0))
    progress.draw_curves(Run(tmp_path), [{}, {}, {}])
    assert drawn == [1, 3]


@pytest.mark.slow
def test_memory_stays_flat_over_fifty_epochs(dataset, tmp_path, monkeypatch):
    megabytes = []

    def measure(said):
        if not said.startswith("epoch"):
            return
        # Without the memory that is freed but kept by the allocator: with it, two runs of the same
        # code had slopes of 0.15 and 0.31 MB; without it, 0.01 to 0.1 MB.
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        (line,) = (
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("RssAnon")
        )
        megabytes.append(int(line.split()[1]) / 1024)

    settings = dataclasses.replace(SETTINGS, epochs=50)
    monkeypatch.setattr(progress, "say", measure)
    train.train(Run(new_run(tmp_path / "run")), settings, dataset)
    rest = np.array(megabytes[10:])
    slope = np.polyfit(np.arange(len(rest)), rest, 1)[0]
    print(f"{rest[0]:.0f} to {rest[-1]:.0f} MB, {slope:.3f} MB per epoch")
    assert slope < 0.3


def test_the_last_averaged_weights_are_what_train_returns_and_validation_scored(dataset, whole):
    network, rows = whole
    members = dataset.splits["validation"]
    logits = network.predict(dataset.images[members], verbose=0)[:, 0]
    correct = (logits[: len(members)] > 0) == dataset.labels[members]
    assert correct.mean() == pytest.approx(rows[-1]["val_accuracy"], abs=1e-6)


# --- Starting from another run --------------------------------------------------------------------


@pytest.fixture(scope="module")
def donor(whole, dataset, tmp_path_factory):
    """A run directory with the network of `whole`."""
    folder = tmp_path_factory.mktemp("donor") / "run"
    config = {
        "settings": dataclasses.asdict(SETTINGS),
        "classes": dataset.classes,
        "score_size": SETTINGS.score_size,
    }
    make_run(folder, config)
    Run(folder).save_network(whole[0])
    Run(folder).write_trained_on(identities(dataset, "train"))
    return folder


def from_donor(settings, classes):
    return train.build(settings, classes, steps=5, fresh=True).network


@pytest.mark.parametrize("classes", [["cat", "dog"], ["dog", "cat"], ["ant", "bee", "fly"]])
def test_init_takes_all_layers_but_an_output_of_other_classes(whole, donor, classes):
    settings = dataclasses.replace(SETTINGS, init=str(donor))
    network = from_donor(settings, classes)
    *layers, output = network.layers
    *donors, donors_output = whole[0].layers
    for mine, theirs in zip(layers, donors, strict=True):
        for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    kernel, donors_kernel = output.get_weights()[0], donors_output.get_weights()[0]
    assert np.array_equal(kernel, donors_kernel) == (classes == ["cat", "dog"])


def test_a_run_from_another_starts_where_that_ended_and_keeps_both_ones_photos(
    whole, donor, dataset, tmp_path
):
    settings = dataclasses.replace(SETTINGS, init=str(donor), lr=1e-6, epochs=1)
    _, rows = train.train(Run(new_run(tmp_path / "run")), settings, dataset)
    assert rows[0]["val_loss"] == pytest.approx(whole[1][-1]["val_loss"], rel=0.02)
    Run(tmp_path / "run").write_trained_on(identities(dataset, "test"), settings.init)
    for split, seen in (("train", True), ("test", True), ("validation", False)):
        known = Run(tmp_path / "run").trained_on(identities(dataset, split))
        assert (known == seen).all()


@pytest.mark.parametrize("arch", ["dnn", "classic"])
def test_init_of_another_network_is_refused(donor, arch):
    settings = dataclasses.replace(SETTINGS, init=str(donor), arch=arch)
    with pytest.raises(UserError, match=f"--init: expected a run of the network {arch}"):
        from_donor(settings, ["cat", "dog"])
    with pytest.raises(UserError, match="--init: expected a run directory"):
        from_donor(dataclasses.replace(settings, init="nowhere"), ["cat", "dog"])


def test_held_out_photos_that_the_other_run_was_trained_on_are_told(donor, dataset, capsys):
    progress.say_if_seen(dataset, str(donor))
    assert capsys.readouterr().err == ""
    swapped = dict(zip(dataset.splits, reversed(dataset.splits.values()), strict=True))
    progress.say_if_seen(dataclasses.replace(dataset, splits=swapped), str(donor))
    trained_on = len(dataset.splits["train"])
    assert f"was trained on {trained_on:,} of the validation and test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "recipe", "size"),
    [
        (["--init", "run"], "tune", RECIPES["tune"].image_size),
        (["--init", "run", "--recipe", "fast"], "fast", RECIPES["fast"].image_size),
        (["--init", "run", "--arch", "classic"], "tune", model.FIXED_SIZE),
        (["--arch", "dnn"], "full", model.FIXED_SIZE),
        (["--arch", "dnn", "--image-size", "40"], "full", 40),
    ],
)
def test_flags_choose_recipe_and_image_size(flags, recipe, size):
    settings = train.make_settings(train.parse_arguments(flags))
    assert (settings.recipe, settings.image_size) == (recipe, size)


# --- Classes --------------------------------------------------------------------------------------


def test_class_weights_give_every_class_the_same_say(dataset):
    few = np.concatenate(
        [np.flatnonzero(dataset.labels == 0)[:10], np.flatnonzero(dataset.labels == 1)[:40]]
    )
    uneven = dataclasses.replace(dataset, splits={"train": few})
    weights = uneven.class_weights()
    assert weights == {0: 2.5, 1: 0.625}
    assert 10 * weights[0] == 40 * weights[1] == 25


@pytest.mark.parametrize("classes", [2, 3])
def test_training_counts_each_photo_by_the_weight_of_its_class(
    dataset, classes, tmp_path, monkeypatch
):
    labels, members = dataset.labels.copy(), dataset.splits["train"]
    labels[members[::4]] = classes - 1
    uneven = dataclasses.replace(dataset, labels=labels, classes=["ant", "bee", "fly"][:classes])
    build = train.build

    def zeros(*arguments, **options):  # whose loss is log(classes) on every photo
        network = build(*arguments, **options)
        network.set_weights([0 * weight for weight in network.get_weights()])
        return network

    monkeypatch.setattr(train, "build", zeros)
    monkeypatch.setattr(
        data.Dataset, "class_weights", lambda self: dict(enumerate((1.0, 3.0, 7.0)))
    )
    settings = dataclasses.replace(
        SETTINGS, arch="dnn", score_scale=1.0, epochs=1, batch_size=len(members),
        label_smoothing=0.0, class_weight="balanced",
    )  # fmt: skip
    _, rows = train.train(Run(new_run(tmp_path / "run")), settings, uneven)
    mean_weight = np.array([1.0, 3.0, 7.0])[labels[members]].mean()
    assert rows[0]["loss"] == pytest.approx(mean_weight * np.log(classes), rel=1e-4)


def test_three_classes_train(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for c in ("ant", "bee", "fly"):
        for n in range(40):
            (tmp_path / c).mkdir(exist_ok=True)
            noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / c / f"{n}.png")
    three = data.load(tmp_path, SETTINGS.score_size, tmp_path / "cache")
    settings = dataclasses.replace(SETTINGS, arch="classic", score_scale=1.0, epochs=1)
    network, rows = train.train(Run(new_run(tmp_path / "run")), settings, three)
    assert network.output_shape == (None, 3)
    assert np.isfinite(rows[-1]["val_loss"])


def test_folds_of_photos_that_are_split_already_are_refused(tmp_path, monkeypatch):
    conftest.draw_photos(tmp_path / "all", 12, size=40)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
    for path in (tmp_path / "all").rglob("*.*"):
        label, number, *_ = path.name.split(".")
        split = ("val", "test", "train", "train")[int(number) % 4]
        path.rename(tmp_path / "photos" / split / label / path.name)
    monkeypatch.chdir(tmp_path)
    arguments = ["--data-dir", "photos", "--cache-dir", "cache", "--image-size", "32"]
    for flags in (["--folds", "5"], ["--fold", "1"]):
        with pytest.raises(UserError, match=f"{flags[0]}: expected photos without a split of"):
            train.main([*arguments, *flags])
