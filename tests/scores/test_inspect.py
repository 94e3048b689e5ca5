"""What is found among photos: copies, counts, labels that may be wrong; and what is left out."""

import csv
import shutil
import time

import numpy as np
import pytest
from conftest import draw_photos
from PIL import Image, ImageEnhance

import data
from catdog.photos import exclusion
from catdog.scores import inspect as inspection
import train
from catdog.errors import UserError


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


def run_data(folder, *arguments):
    return data.main(
        [
            "--data-dir",
            str(folder / "photos"),
            "--cache-dir",
            str(folder / "cache"),
            *map(str, arguments),
        ]
    )


@pytest.mark.parametrize("size", [40, 48, 64])
def test_shrink_averages_rectangles(size):
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    expected = images.reshape(3, 8, size // 8, size, 3).mean(2)
    small = inspection.shrink(images, 8, size)
    np.testing.assert_allclose(small, expected, rtol=1e-5)
    # A width that does not divide the size keeps the mean of the image.
    means = inspection.shrink(images, 8, 9).mean((1, 2, 3))
    np.testing.assert_allclose(means, images.mean((1, 2, 3)), rtol=1e-5)


def test_copies_are_found_and_nothing_else(dataset):
    identical = inspection.identical_groups(dataset.digests)
    assert [{dataset.names[i] for i in group} for group in identical] == [
        {"cat.3", "cat.800"},
        {"cat.4", "dog.801"},
    ]
    pairs = inspection.near_pairs(*inspection.hashes_and_thumbnails(dataset))
    groups = inspection.groups_of(len(dataset.labels), pairs)
    assert sorted(sorted(dataset.names[i] for i in group) for group in groups) == [
        ["cat.3", "cat.800"],
        ["cat.4", "dog.801"],
        ["dog.5", "dog.900"],
    ]


def test_groups_join_pairs_that_share_a_photo():
    groups = inspection.groups_of(9, np.array([[0, 8], [1, 2], [2, 5], [5, 7]]))
    assert [group.tolist() for group in groups] == [[1, 2, 5, 7], [0, 8]]
    assert inspection.groups_of(9, np.zeros((0, 2), int)) == []


def test_near_pairs_of_25_000_photos_take_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 25_000, np.uint64)
    thumbnails = rng.integers(0, 256, (25_000, 16, 16, 3), np.uint8)
    hashes[20_000], thumbnails[20_000] = hashes[7] ^ np.uint64(0b1011), thumbnails[7]
    hashes[300] = hashes[8]  # same lights and shadows, other photo
    started = time.process_time()
    assert inspection.near_pairs(hashes, thumbnails).tolist() == [[7, 20_000]]
    assert time.process_time() - started < 20


def test_data_py_shows_what_is_there(folder, dataset, capsys):
    assert run_data(folder, "--output", folder / "out") == 0
    text = capsys.readouterr().out
    sizes = dataset.split_sizes()
    table = [line.split() for line in text.splitlines()]
    assert ["all", *map(str, sizes.values()), "63"] in table
    assert "sizes     48x48 to 70x70 pixels, median 48x48" in text
    assert "formats   PNG 62, JPEG 1" in text
    assert "cat.999.jpg: not an image" in text
    assert (
        "identical: 2 groups of 4 photos, of which 0 straddle splits and 1 have several labels"
        in text
    )
    assert "near-identical: 1 groups of 2 photos" in text
    assert "dog.5.png (" in text and "dog.900.jpg (" in text
    with open(folder / "out" / "photos.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 63
    by_path = {row["path"]: row for row in rows}
    assert by_path["dog.900.jpg"]["width"] == "70" and by_path["dog.900.jpg"]["format"] == "JPEG"
    assert by_path["dog.900.jpg"]["group"] == by_path["dog.5.png"]["group"] != ""


def test_excluded_photos_leave_their_split_and_move_no_other(folder, dataset, tmp_path, capsys):
    listed = tmp_path / "exclude.txt"
    listed.write_text("# no animals\n\ncat.7  # a house\ntrain/dog.900.jpg\ndog.9.png\ncat.12345\n")
    names = exclusion.read(listed)
    assert names == ["cat.12345", "cat.7", "dog.9.png", "train/dog.900.jpg"]
    fewer = data.load(folder / "photos", 40, folder / "cache", names)
    assert "--exclude: 1 of 4 names match no photo: cat.12345" in capsys.readouterr().err
    gone = {"cat.7", "dog.900", "dog.9"}
    assert {fewer.names[i] for i in fewer.excluded} == gone
    for split in data.SPLITS:
        before = {dataset.names[i] for i in dataset.members_of(split)}
        assert {fewer.names[i] for i in fewer.members_of(split)} == before - gone
    assert len(fewer.members_of("all")) == 60
    assert run_data(folder, "--exclude", listed) == 0
    assert "left out" in capsys.readouterr().out


def test_an_exclusion_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--exclude: cannot read .*missing.txt: No such file"):
        exclusion.read(tmp_path / "missing.txt")
    assert exclusion.read(None) == []


def test_a_resumed_run_leaves_the_same_photos_out(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        train,
        "train",
        lambda run, config, settings, dataset, team: seen.append(
            [dataset.names[i] for i in dataset.excluded]
        ),
    )
    listed = tmp_path / "exclude.txt"
    listed.write_text("cat.7\ntrain/dog.9.png\n")
    train.main(
        [
            "--data-dir",
            str(folder / "photos"),
            "--cache-dir",
            str(folder / "cache"),
            "--image-size",
            "32",
            "--exclude",
            str(listed),
            "--output",
            str(tmp_path / "run"),
        ]
    )
    listed.unlink()  # the run keeps the names
    train.main(["--resume", str(tmp_path / "run")])
    assert seen == [["cat.7", "dog.9"]] * 2


class Oracle:
    """A classifier that is sure of every label of a data set but those of some photos."""

    def __init__(self, dataset, disputed, run):
        self.dataset, self.disputed, self.run = dataset, disputed, run

    def logits_of(self, dataset, members, on_progress):
        return np.array([[4.0 - 8 * (i in self.disputed)] for i in members]) * (
            2 * dataset.labels[members, None] - 1
        )

    def probabilities(self, logits):
        p = 1 / (1 + np.exp(-logits))
        return np.concatenate([1 - p, p], 1)


def test_suspects_are_the_held_out_photos_whose_label_is_disputed(dataset, tmp_path, capsys):
    held_out = np.concatenate([dataset.splits["validation"], dataset.splits["test"]])
    disputed = {int(held_out[1]), int(held_out[-1]), int(dataset.splits["train"][0])}
    oracle = Oracle(dataset, disputed, tmp_path)
    members, _ = inspection.suspects(oracle, dataset)
    assert sorted(members) == sorted(held_out)
    assert set(members[:2]) == disputed - {int(dataset.splits["train"][0])}

    # A photo that the run was trained on is no witness against its own label.
    np.save(tmp_path / "trained_on.npy", data.name_hashes([dataset.names[members[0]]]))
    assert members[0] not in inspection.suspects(oracle, dataset)[0]
    assert "Left out 1 photos that the model was trained on" in capsys.readouterr().err
    (tmp_path / "trained_on.npy").unlink()

    inspection.inspect(dataset, oracle, tmp_path / "out")
    with open(tmp_path / "out" / "suspects.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [dataset.paths[i] for i in members]
    assert float(rows[0]["probability_of_label"]) == pytest.approx(1 / (1 + np.exp(4)), rel=1e-4)
    assert rows[0]["predicted"] != rows[0]["label"]
    with Image.open(tmp_path / "out" / "suspects.png") as sheet:
        assert sheet.width == min(10, len(members)) * inspection.SHEET_TILE
    assert rows[0]["path"] in capsys.readouterr().out
