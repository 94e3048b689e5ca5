"""The training loop through its public functions."""

import dataclasses
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import data
from catdog.training import guards
from catdog.training import normalization
from catdog.runs import run as runs
import train
from catdog.training import optimizer as training
from catdog.training.recipe import FIXED_SIZE, RECIPES, Settings, fit_to_size
from catdog.errors import UserError

SETTINGS = Settings(epochs=3, batch_size=16, image_size=32, precision="float32")


@pytest.fixture(scope="module")
def dataset(photos_dir, tmp_path_factory):
    return data.load(photos_dir, SETTINGS.score_size, tmp_path_factory.mktemp("cache"))


def new_run(path, settings=SETTINGS):
    runs.create(path, {"settings": dataclasses.asdict(settings)})
    return path


def test_a_training_step_changes_every_trainable_weight(dataset):
    keras.utils.set_random_seed(0)
    network = training.build(SETTINGS, 2)
    training.compile_network(network, SETTINGS, 2, steps_per_epoch=10)
    before = [w.numpy().copy() for w in network.trainable_weights]
    for images, targets in data.training_batches(dataset, SETTINGS).take(3):
        network.train_on_batch(images, targets)  # the rate of the first step is zero
    for old, new in zip(before, network.trainable_weights, strict=True):
        assert np.isfinite(new).all() and not np.array_equal(old, new), new.path


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rate = training.make_optimizer(SETTINGS, steps_per_epoch=100)._learning_rate
    rates = [float(rate(step)) for step in range(301)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(SETTINGS.lr, rel=1e-3)
    assert peak == pytest.approx(300 * SETTINGS.warmup, abs=2)
    assert rates[300] == pytest.approx(0, abs=1e-9)
    assert (np.diff(rates[:peak]) > 0).all() and (np.diff(rates[peak + 1 :]) < 0).all()


def test_convolutions_take_orthogonal_steps_and_everything_else_adams():
    network = training.build(SETTINGS, 2)
    optimizer = training.make_optimizer(SETTINGS, steps_per_epoch=100)
    optimizer.build(network.trainable_variables)
    for variable in network.trainable_variables:
        assert optimizer._should_use_adamw(variable) == (len(variable.shape) != 4)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 16)).astype("float32")
    step = np.asarray(optimizer.zeropower_via_newtonschulz5(keras.ops.convert_to_tensor(kernel), 5))
    values = np.linalg.svd(step.reshape(-1, 16), compute_uv=False)
    assert step.shape == kernel.shape
    assert values.min() > 0.6 and values.max() < 1.3  # all alike, whatever the gradient's were


def test_orthogonal_steps_are_those_of_keras_own_muon():
    optimizer = training.make_optimizer(SETTINGS, steps_per_epoch=100)
    for shape in ((3, 3, 8, 16), (3, 3, 1, 16)):  # more rows than columns, and fewer
        kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
        matrix = keras.ops.convert_to_tensor(kernel.reshape(-1, 16))
        expected = keras.optimizers.Muon.zeropower_via_newtonschulz5(optimizer, matrix, 3)
        step = optimizer.zeropower_via_newtonschulz5(keras.ops.convert_to_tensor(kernel), 3)
        np.testing.assert_allclose(np.reshape(step, (-1, 16)), expected, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_fused_normalization_gives_kerass_results_gradients_and_averages(trained):
    inputs = keras.Input((6, 5, 3))
    plain = keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.8)(inputs))
    fused = normalization.fuse(plain)
    assert type(fused.layers[-1]) is not type(plain.layers[-1])
    rng = np.random.default_rng(0)
    start = [rng.uniform(0.5, 2, weight.shape).astype("float32") for weight in plain.get_weights()]
    fused.set_weights(start)
    plain.set_weights(start)
    images = tf.constant(rng.normal(1, 3, (4, 6, 5, 3)), tf.float32)
    slope = tf.constant(rng.normal(size=images.shape), tf.float32)
    both = []
    for network in (plain, fused):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = network(images, training=trained)
            loss = tf.reduce_sum(outputs * slope)
        sources = [images, *(weight.value for weight in network.trainable_weights)]
        both.append([outputs, *tape.gradient(loss, sources), *network.get_weights()])
    moved = [(a != b).any() for a, b in zip(start, fused.get_weights(), strict=True)]
    assert moved == [False, False, trained, trained]  # the averages move in training alone
    for expected, got in zip(*both, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_average_holds_batch_norm_statistics_too_and_is_gone_after_validation():
    network = training.build(SETTINGS, 2)
    average = training.WeightAverage(steps_per_epoch=8)
    average.set_model(network)
    average.on_train_begin()
    start = network.get_weights()
    network.set_weights([w + 1 for w in start])
    for batch in range(8):
        average.on_train_batch_end(batch)
    raw = network.get_weights()
    with average.in_place():
        shown = network.get_weights()
    for before, weight, after in zip(start, shown, network.get_weights(), strict=True):
        assert ((weight > before) & (weight <= before + 1)).all()
        np.testing.assert_allclose(after, before + 1, rtol=1e-6)
    assert len(raw) == len(network.weights) > len(network.trainable_weights)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, None])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recipes_grow_the_images_to_their_final_size(recipe, epochs):
    epochs = epochs or RECIPES[recipe].epochs
    sizes = dataclasses.replace(RECIPES[recipe], epochs=epochs).image_sizes()
    assert len(sizes) == epochs
    assert sizes == sorted(sizes) and sizes[-1] == RECIPES[recipe].image_size
    assert all(size % 8 == 0 for size in [*sizes, RECIPES[recipe].score_size])


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """(network, history) of a run that was never stopped."""
    return training.fit(SETTINGS, dataset, new_run(tmp_path_factory.mktemp("runs") / "whole"))


def test_few_photos_get_small_batches_and_short_runs_mild_augmentation():
    full = RECIPES["full"]
    assert fit_to_size(full, 18_000) == full
    few = fit_to_size(full, 320)
    assert few.batch_size == 20 and few.erase == few.dropout == 0 < full.erase
    assert fit_to_size(full, 320, batch_size=64).batch_size == 64
    assert fit_to_size(full, 5).batch_size == 5


def test_a_resumed_run_ends_with_the_weights_and_history_of_one_that_was_never_stopped(
    dataset, whole, tmp_path
):
    class Stop(Exception):
        pass

    def stop_after_two(row):
        if row["epoch"] == 2:
            raise Stop

    run = new_run(tmp_path / "stopped")
    with pytest.raises(Stop):  # once the second epoch is told, it must not be lost
        training.fit(SETTINGS, dataset, run, on_epoch=stop_after_two)
    resumed_at = []
    network, rows = training.fit(SETTINGS, dataset, run, on_resume=resumed_at.append)
    assert resumed_at == [2]
    for a, b in zip(whole[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_time(rows) == without_time(whole[1])
    # It is no matter of chance that dropout goes on where it stopped.
    assert SETTINGS.dropout > 0
    network = training.build(SETTINGS, 2)
    assert any("seed_generator" in variable.path for variable in network.variables)


def test_the_same_seed_gives_the_same_weights_and_history_to_the_bit(dataset, whole, tmp_path):
    network, rows = training.fit(SETTINGS, dataset, new_run(tmp_path / "again"))
    for a, b in zip(whole[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_time(rows) == without_time(whole[1])


# --- Bad numbers ----------------------------------------------------------------------------------


class Poison(keras.callbacks.Callback):
    """Puts a value into a bias after a step of an epoch, both counted from 1."""

    def __init__(self, value, epoch, step):
        super().__init__()
        self.value, self.place = value, (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.place:
            bias = self.model.trainable_variables[-1]
            bias.assign(keras.ops.full(bias.shape, self.value))


def test_numbers_that_are_not_finite_stop_the_run_and_the_last_good_checkpoint_stays(
    dataset, whole, tmp_path
):
    steps = len(dataset.splits["train"]) // SETTINGS.batch_size
    run = new_run(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        training.fit(SETTINGS, dataset, run, [Poison(np.inf, 2, 3)])
    assert "finite loss, got " in str(caught.value)
    assert f"in epoch 2 at step 4 of {steps}" in str(caught.value)
    assert f"--lr, here {SETTINGS.lr:g}" in str(caught.value)
    good = (run / "checkpoint.npz").read_bytes()
    # After the last step no loss tells of it, but the weights do.
    with pytest.raises(UserError, match="expected finite weights after epoch 2, got nan or inf"):
        training.fit(SETTINGS, dataset, run, [Poison(np.nan, 2, steps)])
    assert (run / "checkpoint.npz").read_bytes() == good
    network, rows = training.fit(SETTINGS, dataset, run)
    for a, b in zip(whole[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_time(rows) == without_time(whole[1])


def test_a_network_that_knows_one_class_only_for_two_epochs_brings_a_warning(
    dataset, tmp_path, capsys
):
    settings = dataclasses.replace(SETTINGS, lr=1e-9, weight_decay=0.0)
    training.fit(settings, dataset, new_run(tmp_path / "run"), [Poison(1e3, 1, 1)],
                 on_epoch=lambda row: print(f"epoch {row['epoch']}", file=sys.stderr))
    lines = [line for line in capsys.readouterr().err.splitlines()
             if line.startswith(("epoch", "Careful"))]
    said = [line.split(":")[0] for line in lines]
    assert said == ["epoch 1", "epoch 2", "Careful", "epoch 3"]
    assert "for 2 epochs the network has given every validation photo the same label" in lines[2]


@pytest.mark.parametrize(("logits", "share"), [
    ([[1.0], [2.0], [0.5]], 1), ([[-1.0], [-2.0], [0.0]], 1), ([[1.0], [-2.0], [0.5]], 2 / 3),
    ([[0.0, 2.0, 1.0]] * 3, 1), ([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 2 / 3),
])
def test_the_share_of_the_most_frequently_predicted_class(logits, share):
    metric = guards.LargestShare(max(2, len(logits[0])))
    for logit in logits:  # in batches of one
        metric.update_state(None, np.array([logit], np.float32))
    assert float(metric.result()) == pytest.approx(share, abs=1e-6)
    assert (float(metric.result()) == 1) == (share == 1)


def test_a_warning_comes_once_and_only_for_epochs_in_a_row(capsys):
    warning = guards.OneClassWarning()
    heard = []
    for share, accuracy in ((1, 0.5), (0.9, 0.5), (1, 0.5), (1, 0.5), (1, 0.5), (0.9, 0.6),
                            (1, 1), (1, 1)):
        warning.see(share, accuracy)
        heard.append("Careful" in capsys.readouterr().err)
    assert heard == [False, False, False, True, False, False, False, False]


@pytest.mark.slow
def test_memory_stays_flat_over_fifty_epochs(dataset, tmp_path):
    megabytes = []

    def measure(row):
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines()
                   if line.startswith("RssAnon"))
        megabytes.append(int(line.split()[1]) / 1024)

    settings = dataclasses.replace(SETTINGS, epochs=50)
    training.fit(settings, dataset, new_run(tmp_path / "run"), on_epoch=measure)
    rest = np.array(megabytes[10:])
    slope = np.polyfit(np.arange(len(rest)), rest, 1)[0]
    print(f"{rest[0]:.0f} to {rest[-1]:.0f} MB, {slope:.3f} MB an epoch")
    assert slope < 0.3


def test_the_last_averaged_weights_are_what_fit_returns_and_validation_scored(dataset, whole):
    network, rows = whole
    logits = network.predict(
        data.evaluation_batches(dataset, dataset.splits["validation"], 10), verbose=0)[:, 0]
    correct = (logits > 0) == dataset.labels[dataset.splits["validation"]]
    assert correct.mean() == pytest.approx(rows[-1]["val_accuracy"], abs=1e-6)


# --- Starting from another run --------------------------------------------------------------------


@pytest.fixture(scope="module")
def donor(whole, dataset, tmp_path_factory):
    """A run directory with the network of `whole`."""
    run = tmp_path_factory.mktemp("donor") / "run"
    runs.create(run, {"classes": dataset.classes, "score_size": SETTINGS.score_size})
    runs.save_network(run, whole[0])
    runs.write_trained_on(run, dataset)
    return run


@pytest.mark.parametrize("classes", [["cat", "dog"], ["dog", "cat"], ["ant", "bee", "fly"]])
def test_init_takes_all_layers_but_an_output_of_other_classes(whole, donor, classes):
    settings = dataclasses.replace(SETTINGS, init=str(donor))
    network = training.start(settings, classes)
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
    _, rows = training.fit(settings, dataset, new_run(tmp_path / "run"))
    assert rows[0]["val_loss"] == pytest.approx(whole[1][-1]["val_loss"], rel=0.02)
    few = dataclasses.replace(dataset, splits={"train": dataset.splits["test"]})
    runs.write_trained_on(tmp_path / "run", few, settings.init)
    for split, seen in (("train", True), ("test", True), ("validation", False)):
        known = runs.trained_on(tmp_path / "run", dataset, dataset.splits[split])
        assert (known == seen).all()


@pytest.mark.parametrize("change", [{"arch": "dnn"}, {"arch": "classic"}])
def test_init_of_another_network_is_refused(donor, change):
    settings = dataclasses.replace(SETTINGS, init=str(donor), **change)
    with pytest.raises(UserError, match=f"--init: expected a run of --arch {change['arch']}"):
        training.start(settings, ["cat", "dog"])
    with pytest.raises(UserError, match="--init: expected a run directory"):
        training.start(dataclasses.replace(settings, init="nowhere"), ["cat", "dog"])


def test_held_out_photos_that_the_other_run_was_trained_on_are_told(donor, dataset, capsys):
    train.say_if_seen(dataset, str(donor))
    assert capsys.readouterr().err == ""
    swapped = dict(zip(dataset.splits, reversed(dataset.splits.values()), strict=True))
    train.say_if_seen(dataclasses.replace(dataset, splits=swapped), str(donor))
    trained_on = len(dataset.splits["train"])
    assert f"was trained on {trained_on:,} of the validation and test" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "recipe", "size"), [
    (["--init", "run"], "tune", RECIPES["tune"].image_size),
    (["--init", "run", "--recipe", "fast"], "fast", RECIPES["fast"].image_size),
    (["--init", "run", "--arch", "classic"], "tune", FIXED_SIZE),
    (["--arch", "dnn"], "full", FIXED_SIZE), (["--arch", "dnn", "--image-size", "40"], "full", 40),
])
def test_flags_choose_recipe_and_image_size(flags, recipe, size):
    _, settings = train.parse_arguments(flags)
    assert (settings.recipe, settings.image_size) == (recipe, size)


# --- Classes --------------------------------------------------------------------------------------


def test_class_weights_give_every_class_the_same_say(dataset):
    few = np.concatenate([np.flatnonzero(dataset.labels == 0)[:10],
                          np.flatnonzero(dataset.labels == 1)[:40]])
    uneven = dataclasses.replace(dataset, splits={"train": few})
    weights = training.class_weights(uneven)
    assert weights == {0: 2.5, 1: 0.625}
    assert 10 * weights[0] == 40 * weights[1] == 25


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_counts_each_photo_by_the_weight_of_its_class(dataset, classes, tmp_path, monkeypatch):
    labels, train = dataset.labels.copy(), dataset.splits["train"]
    labels[train[::4]] = classes - 1
    uneven = dataclasses.replace(dataset, labels=labels, classes=["ant", "bee", "fly"][:classes])

    def zeros(settings, names):  # whose loss is log(classes) on every photo
        network = training.build(settings, len(names))
        network.set_weights([0 * weight for weight in network.get_weights()])
        return network

    monkeypatch.setattr(training, "start", zeros)
    monkeypatch.setattr(training, "class_weights", lambda _: dict(enumerate((1.0, 3.0, 7.0))))
    settings = dataclasses.replace(SETTINGS, arch="dnn", epochs=1, batch_size=len(train),
                                   label_smoothing=0.0, class_weight="balanced")
    _, rows = training.fit(settings, uneven, new_run(tmp_path / "run"))
    mean_weight = np.array([1.0, 3.0, 7.0])[labels[train]].mean()
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
    settings = dataclasses.replace(SETTINGS, arch="classic", epochs=1)
    network, rows = training.fit(settings, three, new_run(tmp_path / "run"))
    assert network.output_shape == (None, 3)
    assert np.isfinite(rows[-1]["val_loss"])
