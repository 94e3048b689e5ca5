"""The data set: load, split, stream, augment."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import data
from catdog.errors import UserError
from catdog.photos import index, labels
from catdog.scores import inspect
from catdog.training import devices, pixels
from catdog.training.recipe import MILD
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
        inspect.check(data.load(tmp_path, 8, tmp_path / "cache"))


def test_photos_none_of_which_can_be_decoded_are_an_error(tmp_path):
    for c in ("cat", "dog"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / f"train/{c}.1.jpg").touch()
    words = r"^argument --data-dir: expected photos, got 2 files .* cat.1.jpg: is empty"
    with pytest.raises(UserError, match=words):
        data.load(tmp_path, 8, tmp_path / "cache")


@pytest.mark.parametrize("count", range(3, 13))
def test_a_class_of_three_photos_or_more_is_in_every_split(count):
    for seed in range(20):
        names = [f"{seed}/{n}.jpg" for n in range(count)]
        labels = np.zeros(count, int)
        folds = np.array([data.split(names, names, labels, fold=fold) for fold in range(10)])
        assert set(folds[0]) == {0, 1, 2} and ((folds == 2).sum(0) == 1).all()


def test_the_folds_test_every_photo_once():
    names = [f"cat.{n}" for n in range(500)]
    folds = np.array([data.split(names, names, fold=fold) for fold in range(10)])
    np.testing.assert_array_equal(folds[0], data.split(names, names))
    assert ((folds == 2).sum(0) == 1).all() and ((folds == 1).sum(0) == 1).all()
    # Copies stay together in every fold.
    copies = [data.split(names, ["same"] * 2 + names[2:], fold=fold)[:2] for fold in range(10)]
    assert all(first == second for first, second in copies)


def test_small_classes_are_divided_exactly_and_large_ones_by_the_hash():
    names = [f"{c}/{n}.jpg" for c, count in enumerate((60, 25, 1, 500)) for n in range(count)]
    labels = np.array([int(name[0]) for name in names])
    digests = np.arange(len(names))
    digests[:3] = -1  # the same bytes
    folds = np.array([data.split(names, digests, labels, fold=fold) for fold in range(10)])
    counts = [np.bincount(folds[0][labels == c], minlength=3).tolist() for c in range(3)]
    assert counts[1] in ([20, 2, 3], [20, 3, 2]) and counts[2] == [1, 0, 0]
    assert np.abs(np.subtract(counts[0], [48, 6, 6])).max() <= 2  # copies stay together
    assert len(set(folds[0, :3])) == 1
    assert ((folds == 2).sum(0) == 1).all()
    plain = data.split(names, digests)
    np.testing.assert_array_equal(folds[0][labels == 3], plain[labels == 3])
    given = np.where(labels == 1, 2, 0)
    sides = data.split(names, digests, labels, given)
    assert np.bincount(sides[labels == 0], minlength=3)[1:].tolist() in ([6, 0], [5, 0], [7, 0])
    assert (sides[labels == 1] == 2).all()


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


def test_few_test_photos_and_copies_among_them_are_told(tmp_path):
    train = draw_photos(tmp_path / "train", 30)
    dataset = data.load(tmp_path, 48, tmp_path / "cache")
    few, help = inspect.warnings(dataset)
    assert "only 6 test photos, the fewest of cat (3)" in few and "--folds 5" in help
    with Image.open(train / dataset.paths[dataset.splits["test"][0]]) as photo:
        mirror_image = photo.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirror_image.save(train / dataset.paths[dataset.splits["train"][0]])
    *_, copies, _ = inspect.warnings(data.load(tmp_path, 48, tmp_path / "cache"))
    assert "1 of 6 test photos have a copy in training" in copies


@pytest.mark.parametrize("name", ["unknown", "Unsure", "unknown "])
def test_a_class_with_a_word_of_predict_py_is_refused_for_training(tmp_path, name):
    fill(tmp_path, "ant", name, photos=30)
    with pytest.raises(
        UserError, match=f"another name of the class {name}.* rename it, for example to other"
    ):
        inspect.check(data.load(tmp_path, 8, tmp_path / "cache"))


def test_data_py_shows_the_table_of_photos_that_cannot_be_trained_on(tmp_path, capsys):
    fill(tmp_path, "ant", "bee", photos=30)
    save(tmp_path / "fly/0.jpg").write_text("<html>")
    places = ["--data-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    with pytest.raises(
        UserError, match=r"0 of fly; skipped 1 file, the first fly/0.jpg: .* got a web page"
    ):
        data.main(places)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fly", "0", "0", "0", "0"] in table and ["bee", "24", "3", "3", "30"] in table


def test_a_class_without_photos_after_new_labels_is_named(tmp_path):
    fill(tmp_path, "ant", "bee", photos=30)
    fill(tmp_path, "fly")
    with pytest.raises(UserError, match=r"61 photos in .*, of which 0 of fly"):
        inspect.check(data.load(tmp_path, 8, tmp_path / "cache", relabel={"fly/0.png": "bee"}))


def test_photos_to_score_may_be_of_some_classes_of_the_network_alone(tmp_path):
    fill(tmp_path, "bee", photos=4)
    (tmp_path / "ant").mkdir()
    dataset = data.load(tmp_path, 8, tmp_path / "cache", classes=["ant", "bee"])
    assert dataset.classes == ["ant", "bee"] and dataset.labels.tolist() == [1] * 4
    with pytest.raises(UserError, match="expected photos of the classes of the network, ant, fly"):
        data.load(tmp_path, 8, tmp_path / "none", classes=["ant", "fly"])
    assert not (tmp_path / "none").exists()


# --- Stream ---------------------------------------------------------------------------------------


SETTINGS = Settings(epochs=3, batch_size=16, image_size=64, seed=1)


def test_an_epoch_shows_every_training_photo_once_in_an_order_of_its_own(folder):
    dataset = data.load(folder, 80, folder / "cache")
    steps = len(dataset.splits["train"]) // 16
    key = {dataset.images[i].tobytes(): i for i in dataset.splits["train"]}
    seen = []
    for batches in epochs(dataset, SETTINGS):
        assert len(batches) == steps
        seen.append([key[photo.tobytes()] for inputs, _ in batches for photo in inputs["photos"]])
        assert len(set(seen[-1])) == 16 * steps
        targets = np.concatenate([targets[:, 0] for _, targets in batches])
        np.testing.assert_array_equal(targets, dataset.labels[seen[-1]])
    assert seen[0] != seen[1]


def epochs(dataset, settings):
    """The batches of all epochs, a list per epoch."""
    return [
        list(data.training_batches(dataset, settings, epoch)) for epoch in range(settings.epochs)
    ]


def test_training_batches_depend_on_seed_epoch_and_step_alone(folder):
    dataset = data.load(folder, 80, folder / "cache")
    for batches, again in zip(epochs(dataset, SETTINGS), epochs(dataset, SETTINGS), strict=True):
        for (a, b), (c, d) in zip(batches, again, strict=True):
            np.testing.assert_equal(a, c)
            np.testing.assert_array_equal(b, d)
    other = Settings(epochs=3, batch_size=16, image_size=64, seed=2)
    drawn = [
        data.training_batches(dataset, each, 0)[i][0] for each in (SETTINGS, other) for i in (0, 1)
    ]
    assert len({inputs["rows"].tobytes() for inputs in drawn}) == 4


def test_each_process_reads_its_share_of_the_same_batches(folder, monkeypatch):
    dataset = data.load(folder, 80, folder / "cache")
    whole, targets = data.training_batches(dataset, SETTINGS, 0)[1]
    monkeypatch.setattr(devices, "processes", lambda: 2)
    monkeypatch.setattr(devices, "index", lambda: 1)
    part, its_targets = data.training_batches(dataset, SETTINGS, 0)[1]
    np.testing.assert_equal(part, {name: array[8:] for name, array in whole.items()})
    np.testing.assert_array_equal(its_targets, targets[8:])


def augmented(inputs, settings):
    """Images as a training step computes them."""
    keras.utils.set_random_seed(0)
    return np.array(data.augment(inputs, settings, "float32", keras.random.SeedGenerator(0)))


def drawn(settings, photos, size, seed=0):
    """The inputs of a batch of photos."""
    rng = np.random.default_rng(seed)
    return {"photos": photos} | data.draw(rng, len(photos), size, photos.shape[1], settings)


PHOTOS = np.random.default_rng(0).integers(0, 256, (64, 40, 40, 3), np.uint8)
STILL = {**MILD, "crop_area": 1.0, "brightness": 0.0, "aspect": 0.0}


def test_training_images_have_the_size_of_their_epoch_and_stay_in_range(folder):
    dataset = data.load(folder, 80, folder / "cache")
    settings = Settings(epochs=3, batch_size=16, image_size=64, rotation=0.5, corruption=0.5)
    for batches, size in zip(epochs(dataset, settings), (48, 48, 64), strict=True):
        for inputs, targets in batches:
            images = augmented(inputs, settings)
            assert images.shape == (16, size, size, 3) and targets.shape == (16, 1)
            assert images.min() >= 0 and images.max() <= 255


def test_without_crop_and_colours_a_photo_stays_or_is_mirrored():
    out = augmented(drawn(Settings(**STILL), PHOTOS, 40), Settings(**STILL))
    same = np.array([np.allclose(a, b, atol=0.1) for a, b in zip(out, PHOTOS, strict=True)])
    mirrored = [np.allclose(a, b[:, ::-1], atol=0.1) for a, b in zip(out, PHOTOS, strict=True)]
    assert (same | mirrored).all() and 16 < same.sum() < 48
    settings = Settings(**STILL, mirror=False)
    np.testing.assert_allclose(augmented(drawn(settings, PHOTOS, 40), settings), PHOTOS, atol=0.1)


@pytest.mark.parametrize("size", [20, 40, 64])
def test_sampling_is_bilinear_and_averages_where_a_photo_shrinks(size):
    whole = data.positions(np.zeros(8), np.ones(8), size, 40)
    images = pixels.sample(PHOTOS[:8], whole, whole, "float32")
    expected = tf.image.resize(PHOTOS[:8], (size, size))  # of half the size: the mean of four
    np.testing.assert_allclose(images, expected, atol=1e-2)


def test_fine_patterns_vanish_where_a_photo_shrinks():
    stripes = np.tile(np.array([0, 255], np.uint8)[:, None], (1, 20, 40, 3)).reshape(1, 40, 40, 3)
    whole = data.positions(np.zeros(1), np.ones(1), 13, 40)
    images = np.array(pixels.sample(stripes, whole, whole, "float32"))
    assert np.abs(images - 127.5).max() < 30


def test_whole_numbers_are_exact_in_bfloat16():
    whole = data.positions(np.zeros(8), np.ones(8), 40, 40)
    images = pixels.sample(PHOTOS[:8], whole, whole, "bfloat16")
    np.testing.assert_array_equal(np.array(images, "float32"), PHOTOS[:8])


def test_a_crop_is_the_part_of_the_photo_that_was_drawn():
    rows = data.positions(np.array([0.25]), np.array([0.5]), 20, 40)
    columns = data.positions(np.array([0.75]), np.array([-0.5]), 20, 40)
    image = pixels.sample(PHOTOS[:1], rows, columns, "float32")
    np.testing.assert_allclose(image[0], PHOTOS[0, 10:30, 10:30][:, ::-1], atol=1e-2)


def test_the_asked_share_of_the_photos_is_turned_and_corrupted():
    for name, share in (("rotation", 0.25), ("corruption", 0.5)):
        settings = Settings(**STILL | {name: share})
        inputs = drawn(settings, PHOTOS, 40)
        plain = augmented(inputs, Settings(**STILL))
        changed = np.abs(augmented(inputs, settings) - plain).max((1, 2, 3)) > 1
        places = slice(0, 16) if name == "rotation" else slice(32, 64)
        assert changed.sum() == changed[places].sum() > 0.6 * 64 * share


def test_the_last_epochs_are_augmented_mildly():
    settings = Settings(epochs=20, rotation=0.5, corruption=0.5, mild_end=0.1)

    def drawn_in(epoch):
        rng = np.random.default_rng(0)
        return data.draw(rng, 2000, 40, 40, settings, epoch)

    strong, mild = drawn_in(17), drawn_in(18)
    for name, share in (("angle", 1 / 4), ("small", 1 / 2)):
        assert (strong[name] != 0).all()
        assert (mild[name] != 0).mean() == pytest.approx(share, abs=0.05)
    assert strong["reach"].any() and not mild["reach"].any()
    images = augmented(
        {"photos": PHOTOS, **data.draw(np.random.default_rng(0), 64, 40, 40, settings, 18)},
        settings,
    )
    assert np.isfinite(images).all() and images.max() <= 255


def test_a_turn_is_about_the_middle_of_the_photo():
    turned = pixels.turn(PHOTOS[:2], keras.ops.convert_to_tensor([np.pi / 2, 0], "float32"))
    np.testing.assert_allclose(turned[1], PHOTOS[1], atol=0.1)
    np.testing.assert_allclose(turned[0], np.rot90(PHOTOS[0], 1), atol=0.1)


def test_erasing_makes_a_square_grey():
    square = np.array([[0, 0.25], [0, 0.5], [0, 0.1]], np.float32)  # row, column, reach
    images = np.zeros((2, 40, 40, 3), np.float32)
    erased = np.array(pixels.erase(images, *square))
    assert (erased[0] == 0).all()
    grey = (erased[1] == 127.5).all(-1)
    assert grey.sum() == 64 and grey[6:14, 16:24].all()


def test_small_and_large_again_keeps_slopes_and_loses_details():
    noise = tf.image.resize(PHOTOS[:4], (48, 48)).numpy()
    small = np.full((4, 1), 12, np.float32)
    assert np.array(pixels.shrink(noise, small)).std() < noise.std() / 3
    slope = np.broadcast_to(np.arange(48, dtype=np.float32)[:, None], (4, 48, 48, 3))
    inner = (slice(None), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(np.array(pixels.shrink(slope, small))[inner], slope[inner], atol=0.1)


@pytest.mark.parametrize("size", [7, 64, 500])
def test_evaluation_batches_hold_every_photo_once_and_are_of_one_size(folder, size):
    dataset = data.load(folder, 8, folder / "cache")
    members = dataset.members_of("all")
    batches = list(data.evaluation_batches(dataset, members, size, 8))
    assert all(len(inputs["photos"]) == len(weights) == size for inputs, _, weights in batches)
    inputs, targets, weights = zip(*batches, strict=True)
    scored = np.concatenate(weights) == 1
    photos = np.concatenate([each["photos"] for each in inputs])[scored]
    np.testing.assert_array_equal(photos, dataset.images[members])
    np.testing.assert_array_equal(np.concatenate(targets)[scored, 0], dataset.labels[members])
    np.testing.assert_array_equal(np.concatenate(list(dataset.batches(members, size))), photos)


def test_three_classes_stream_one_hot_targets(tmp_path):
    fill(tmp_path, "ant", "bee", "fly", photos=40)
    dataset = data.load(tmp_path, 40, tmp_path / "cache")
    _, targets = data.training_batches(dataset, SETTINGS, 0)[0]
    assert targets.shape == (16, 3) and (targets.sum(1) == 1).all()


def test_data_py_draws_photos_as_training_sees_them(folder, tmp_path_factory, capsys):
    drawn = tmp_path_factory.mktemp("drawn") / "a.png"
    arguments = ["--data-dir", str(folder), "--cache-dir", str(drawn.parent / "cache")]
    assert data.main([*arguments, "--augmented", str(drawn)]) == 0
    with Image.open(drawn) as image:
        assert image.size == (6 * 160, 4 * 160)
    for path, words in ((drawn, "which exists"), (folder / "a.png", "outside the photos")):
        with pytest.raises(UserError, match=f"--augmented: .*{words}"):
            data.main([*arguments, "--augmented", str(path)])


# --- Photos that are left out ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_exclusions(tmp_path_factory):
    """60 drawings, and a file of names: with comments, an extension, a path, one of no photo."""
    folder = tmp_path_factory.mktemp("exclusion")
    draw_photos(folder / "photos" / "train", 30)
    names = "# no animals\n\ncat.7\ntrain/dog.3.png\ndog.9.png\ncat.12345\n"
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
