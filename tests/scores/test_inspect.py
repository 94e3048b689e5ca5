"""What is found among photos: copies and counts."""

import csv
import os
import shutil
import time
import types

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

import data
from catdog.photos import alike
from catdog.scores import inspect
from conftest import draw_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 drawings, with copies of some of them, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("inspection")
    train = draw_photos(folder / "photos" / "train", 30)
    shutil.copy(train / "cat.3.png", train / "cat.800.png")
    shutil.copy(train / "cat.4.png", train / "dog.801.png")
    with Image.open(train / "dog.5.png") as photo:
        photo = ImageEnhance.Brightness(photo.convert("RGB")).enhance(1.03)
        photo.resize((70, 70)).save(train / "dog.900.jpg", quality=90)
    (train / "cat.999.jpg").write_text("<html>")
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return data.load(folder / "photos", 40, folder / "cache")


def test_hashes_compare_neighbours_and_thumbnails_average():
    ramp = np.tile(np.arange(48, dtype=np.uint8)[:, None], (48, 1, 3))  # lighter to the right
    images = np.stack([ramp, ramp[:, ::-1]])
    dataset = types.SimpleNamespace(labels=[0, 1], batches=lambda members, size: [images])
    hashes, thumbnails = inspect.hashes_and_thumbnails(dataset)
    assert hashes.tolist() == [2**64 - 1, 0]
    expected = images.reshape(2, 16, 3, 16, 3, 3).mean((2, 4))
    np.testing.assert_allclose(thumbnails, expected, atol=0.5)


def test_copies_are_found_and_nothing_else(dataset):
    identical = inspect.identical_groups(dataset.digests)
    assert [{dataset.names[i] for i in group} for group in identical] == [
        {"cat.3", "cat.800"},
        {"cat.4", "dog.801"},
    ]
    pairs, _ = inspect.near_pairs(*inspect.hashes_and_thumbnails(dataset))
    groups = inspect.groups_of(len(dataset.labels), pairs)
    assert sorted(sorted(dataset.names[i] for i in group) for group in groups) == [
        ["cat.3", "cat.800"],
        ["cat.4", "dog.801"],
        ["dog.5", "dog.900"],
    ]


def test_groups_join_pairs_that_share_a_photo():
    groups = inspect.groups_of(9, np.array([[0, 8], [1, 2], [2, 5], [5, 7]]))
    assert [group.tolist() for group in groups] == [[1, 2, 5, 7], [0, 8]]
    assert inspect.groups_of(9, np.zeros((0, 2), int)) == []


def test_near_pairs_of_25_000_photos_take_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 25_000, np.uint64)
    thumbnails = rng.integers(0, 256, (25_000, 16, 16, 3), np.uint8)
    hashes[20_000], thumbnails[20_000] = hashes[7] ^ np.uint64(0b1011), thumbnails[7]
    hashes[300] = hashes[8]  # same lights and shadows, other photo
    started = time.process_time()
    assert inspect.near_pairs(hashes, thumbnails)[0].tolist() == [[7, 20_000]]
    assert time.process_time() - started < 20


def test_the_overview_shows_what_is_there(folder, dataset):
    text, rows = inspect.overview(dataset)
    sizes = dataset.split_sizes()
    table = [line.split() for line in text.splitlines()]
    assert ["all", *map(str, sizes.values()), "63"] in table
    assert "sizes     48x48 to 70x70 pixels, median 48x48" in text
    assert "formats   PNG 62, JPEG 1" in text
    assert "cat.999.jpg: expected JPEG" in text
    copies = "identical: 2 groups of 4 photos, of which 0 straddle splits and 1 have several labels"
    assert copies in text
    assert "near-identical: 1 group of 2 photos" in text
    assert "dog.5.png (" in text and "dog.900.jpg (" in text
    inspect.write(folder / "out", rows)
    with open(folder / "out" / "photos.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 63
    by_path = {row["path"]: row for row in rows}
    assert by_path["dog.900.jpg"]["width"] == "70" and by_path["dog.900.jpg"]["format"] == "JPEG"
    assert by_path["dog.900.jpg"]["group"] == by_path["dog.5.png"]["group"] != ""


def test_mirrored_and_brighter_copies_are_found_and_listed(tmp_path):
    train = draw_photos(tmp_path / "photos" / "train", 20, size=64)
    with Image.open(train / "cat.3.png") as photo:
        ImageOps.mirror(photo.convert("RGB")).save(train / "cat.900.png")
    with Image.open(train / "dog.5.png") as photo:
        ImageEnhance.Brightness(photo.convert("RGB")).enhance(1.3).save(train / "dog.901.png")
    dataset = data.load(tmp_path / "photos", 64, tmp_path / "cache")
    text, rows = inspect.overview(dataset)
    assert "near-identical: 2 groups of 4 photos" in text
    assert "pairs: 0 scaled or compressed anew, 1 brighter or darker, 1 mirrored" in text
    inspect.write(tmp_path / "out", rows)
    copies = (tmp_path / "out" / "copies.txt").read_text().splitlines()
    assert copies == ["cat.900.png", "dog.901.png"]
    everything = np.arange(42)
    with_copy = alike.have_copies(dataset.images, everything[:-1], everything[-1:])
    assert [dataset.names[i] for i in np.flatnonzero(with_copy)] == ["dog.5"]
    last = np.array([dataset.names.index("cat.900")])
    others = np.setdiff1d(everything, last)
    assert dataset.names[others[alike.have_copies(dataset.images, others, last)][0]] == "cat.3"


def test_photos_of_one_colour_are_no_copies_of_other_colours():
    images = np.full((3, 8, 8, 3), np.array([40, 90, 140])[:, None, None, None], np.uint8)
    none = alike.have_copies(images, np.array([0, 1]), np.array([2]))
    assert not none.any()


def test_excluded_photos_have_a_column_of_their_own(folder):
    fewer = data.load(folder / "photos", 40, folder / "cache", ["cat.7"])
    text, rows = inspect.overview(fewer)
    assert "left out" in text
    assert {row[0] for row in rows if row[2] == "left out"} == {"cat.7.png"}


def test_a_photo_that_became_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    Image.new("RGB", (4, 3)).save(tmp_path / "b.png")
    dataset = types.SimpleNamespace(root=tmp_path, paths=["a.jpg", "b.png", "gone.jpg"])
    assert inspect.headers(dataset) == [("?", 0, 0), ("PNG", 4, 3), ("?", 0, 0)]
