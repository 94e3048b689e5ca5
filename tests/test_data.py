"""The data set: load, split, stream, augment."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import data
from catdog.errors import UserError
from catdog.photos import index, labels
from catdog.training.settings import Settings
from conftest import draw_photos
from photo_files import cats_and_dogs, fill, save

# --- Split ----------------------------------------------------------------------------------------


def test_split_is_about_80_10_10_and_known():
    names = [f"cat.{n}" for n in range(5000)]
    sides = data.split(names, names)
    np.testing.assert_allclose(np.bincount(sides) / 5000, data.SHARES, atol=0.015)
    # Fixed for all time: another split would let a shipped model be scored on what it learnt from.
    assert "".join(map(str, sides[:20])) == "00000010000000000000"


def test_an_added_photo_moves_no_other(tmp_path):
    names = [f"dog.{n}" for n in range(300)]
    before = data.split(names, names)
    more = ["cat.1", *names, "dog.999"]
    np.testing.assert_array_equal(data.split(more, more)[1:-1], before)


def test_files_with_the_same_bytes_go_where_the_first_by_name_goes():
    names = [f"cat.{n}" for n in range(200)]
    alone = dict(zip(names, data.split(names, names), strict=True))
    digests = ["same" if n % 2 else str(n) for n in range(200)]
    together = dict(zip(names, data.split(names, digests), strict=True))
    first = min(name for n, name in enumerate(names) if n % 2)
    assert {together[name] for n, name in enumerate(names) if n % 2} == {alone[first]}
    assert all(together[f"cat.{n}"] == alone[f"cat.{n}"] for n in range(0, 200, 2))


def test_too_few_photos_to_fill_every_split_is_an_error(tmp_path):
    for c in ("cat", "dog"):
        save(tmp_path / f"train/{c}.1.jpg")
    with pytest.raises(UserError, match=r"enough photos .* got 2 photos"):
        data.load(tmp_path, 8, tmp_path / "cache")


def test_the_folds_test_every_photo_once():
    names = [f"cat.{n}" for n in range(500)]
    folds = np.array([data.split(names, names, fold=fold) for fold in range(10)])
    np.testing.assert_array_equal(folds[0], data.split(names, names))
    assert ((folds == 2).sum(0) == 1).all() and ((folds == 1).sum(0) == 1).all()
    # Copies stay together in every fold.
    copies = [data.split(names, ["same"] * 2 + names[2:], fold=fold)[:2] for fold in range(10)]
    assert all(first == second for first, second in copies)


# --- Load -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return cats_and_dogs(tmp_path)


def test_photos_that_cannot_be_decoded_are_skipped_with_a_reason_and_stay_where_they_are(folder):
    (folder / "train/cat.7.png").write_bytes(b"")
    (folder / "train/dog.8.jpg").write_text("<html></html>")
    dataset = data.load(folder, 8, folder / "cache")
    assert [path for path, _ in dataset.skipped] == ["cat.7.png", "dog.8.jpg"]
    assert all(reason for _, reason in dataset.skipped)
    assert len(dataset.images) == len(dataset.labels) == len(dataset.paths) == 119
    assert (folder / "train/dog.8.jpg").read_text() == "<html></html>"
    for i in (0, 50, 118):  # images, paths and labels belong together
        pixels = np.asarray(Image.open(folder / "train" / dataset.paths[i]))
        np.testing.assert_array_equal(dataset.images[i], pixels)
        assert dataset.classes[dataset.labels[i]] == dataset.paths[i][:3]


def test_splits_are_disjoint_and_cover_every_photo(folder):
    dataset = data.load(folder, 8, folder / "cache")
    members = np.concatenate(list(dataset.splits.values()))
    np.testing.assert_array_equal(np.sort(members), np.arange(120))


# --- Stream ---------------------------------------------------------------------------------------


SETTINGS = Settings(epochs=3, batch_size=16, image_size=64, seed=1)


def test_an_epoch_shows_every_training_photo_once_in_an_order_of_its_own(folder, monkeypatch):
    dataset = data.load(folder, 80, folder / "cache")
    seen = []
    monkeypatch.setattr(data, "augment", lambda images, *_: images)
    members = dataset.splits["train"]
    steps = len(members) // 16
    key = {dataset.images[i].tobytes(): i for i in members}
    for epoch in range(3):
        part = list(data.training_batches(dataset, SETTINGS, epoch).as_numpy_iterator())
        assert len(part) == steps
        seen.append([key[image.tobytes()] for images, _ in part for image in images])
        assert len(set(seen[-1])) == 16 * steps
        for images, targets in part:
            indices = [key[image.tobytes()] for image in images]
            np.testing.assert_array_equal(targets[:, 0], dataset.labels[indices])
    assert seen[0] != seen[1]


def epochs(dataset, settings):
    """The batches of all epochs, a list per epoch."""
    return [
        list(data.training_batches(dataset, settings, epoch).as_numpy_iterator())
        for epoch in range(settings.epochs)
    ]


def test_training_batches_depend_on_seed_and_epoch_alone(folder):
    dataset = data.load(folder, 80, folder / "cache")
    first, second = epochs(dataset, SETTINGS), epochs(dataset, SETTINGS)
    for batches, again in zip(first, second, strict=True):
        for (a, b), (c, d) in zip(batches, again, strict=True):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)
    other = Settings(epochs=3, batch_size=16, image_size=64, seed=2)
    batch = next(data.training_batches(dataset, other, 0).as_numpy_iterator())
    assert not np.array_equal(batch[0], first[0][0][0])


def test_training_images_have_the_size_of_their_epoch_and_stay_in_range(folder):
    dataset = data.load(folder, 80, folder / "cache")
    settings = Settings(epochs=3, batch_size=16, image_size=64, rotation=0.5, corruption=0.5)
    batches = epochs(dataset, settings)
    shapes = [of_epoch[0][0].shape[1:] for of_epoch in batches]
    assert shapes == [(48, 48, 3), (48, 48, 3), (64, 64, 3)]
    for images, targets in itertools.chain(*batches):
        assert images.dtype == np.float32 and targets.shape == (16, 1)
        assert images.min() >= 0 and images.max() <= 255


def test_augmentation_without_crop_and_brightness_is_the_photo_or_its_mirror_image():
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    settings = Settings(crop_area=1.0, brightness=0.0, aspect=0.0, erase=0.0)
    out = data.augment(tf.constant(images), 32, tf.constant([0, 1], tf.int64), settings).numpy()
    same = np.array([np.allclose(a, b, atol=0.1) for a, b in zip(out, images, strict=True)])
    mirrored = np.array(
        [np.allclose(a, b[:, ::-1], atol=0.1) for a, b in zip(out, images, strict=True)]
    )
    assert (same | mirrored).all() and 16 < same.sum() < 48


def test_without_rotation_a_turning_crop_is_the_plain_one():
    images = np.random.default_rng(0).integers(0, 256, (32, 40, 40, 3), np.uint8)
    seed = tf.constant([0, 1], tf.int64)
    plain, turned, none = (
        data.augment(tf.constant(images), 32, seed, Settings(rotation=share)).numpy()
        for share in (0.0, 1.0, 1e-9)
    )
    np.testing.assert_allclose(none, plain, atol=0.05)
    assert np.abs(turned - plain).mean() > 5


def test_corruption_changes_the_share_of_the_photos_that_is_asked_for():
    images = np.random.default_rng(0).integers(0, 256, (64, 40, 40, 3), np.uint8)
    seed = tf.constant([0, 1], tf.int64)
    plain, corrupted = (
        data.augment(tf.constant(images), 32, seed, Settings(corruption=share)).numpy()
        for share in (0.0, 0.5)
    )
    changed = np.abs(plain - corrupted).max((1, 2, 3)) > 1
    assert 16 < changed.sum() <= 32


@pytest.mark.parametrize("size", [7, 64, 500])
def test_evaluation_batches_hold_every_photo_once_and_are_of_one_size(folder, size):
    dataset = data.load(folder, 8, folder / "cache")
    members = dataset.members_of("all")
    batches = list(data.evaluation_batches(dataset, members, size).as_numpy_iterator())
    assert all(len(images) == len(weights) == size for images, _, weights in batches)
    images, targets, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    scored = weights > 0
    np.testing.assert_array_equal(images[scored], dataset.images[members])
    np.testing.assert_array_equal(targets[scored, 0], dataset.labels[members])
    assert weights.mean() == pytest.approx(1) and len(set(weights[scored])) == 1
    np.testing.assert_array_equal(
        np.concatenate(list(dataset.batches(members, size))), images[scored]
    )


def test_three_classes_stream_one_hot_targets(tmp_path):
    fill(tmp_path, "ant", "bee", "fly", photos=40)
    dataset = data.load(tmp_path, 40, tmp_path / "cache")
    _, targets = next(data.training_batches(dataset, SETTINGS, 0).as_numpy_iterator())
    assert targets.shape == (16, 3) and (targets.sum(1) == 1).all()


# --- Photos that are left out ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_exclusions(tmp_path_factory):
    """60 drawings, and a file of names: with comments, an extension, a path, one of no photo."""
    folder = tmp_path_factory.mktemp("exclusion")
    draw_photos(folder / "photos" / "train", 30)
    names = "# no animals\n\ncat.7  # a house\ntrain/dog.3.png\ndog.9.png\ncat.12345\n"
    (folder / "exclude.txt").write_text(names)
    return folder


def arguments(folder, *more):
    places = ["--data-dir", folder / "photos", "--cache-dir", folder / "cache"]
    return list(map(str, [*places, *more]))


def test_excluded_photos_leave_their_split_and_move_no_other(with_exclusions, caplog):
    folder = with_exclusions
    dataset = data.load(folder / "photos", 40, folder / "cache")
    names = labels.read_names(folder / "exclude.txt")
    assert names == ["cat.12345", "cat.7", "dog.9.png", "train/dog.3.png"]
    fewer = data.load(folder / "photos", 40, folder / "cache", names)
    assert "1 of 4 names match no photo: cat.12345" in caplog.text
    gone = {"cat.7", "dog.3", "dog.9"}
    assert {fewer.names[i] for i in fewer.excluded} == gone
    for split in index.SPLITS:
        before = {dataset.names[i] for i in dataset.members_of(split)}
        assert {fewer.names[i] for i in fewer.members_of(split)} == before - gone
    assert len(fewer.members_of("all")) == 57


def test_data_py_prints_and_writes_what_there_is(with_exclusions, capsys):
    folder = with_exclusions
    more = ["--exclude", folder / "exclude.txt", "--output", folder / "out"]
    assert data.main(arguments(folder, *more)) == 0
    text = capsys.readouterr().out
    assert "left out" in text and f"60 photos in {folder}" in text
    rows = (folder / "out" / "photos.csv").read_text().splitlines()
    assert len(rows) == 61 and sum(",left out," in row for row in rows) == 3
