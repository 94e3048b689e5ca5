"""Photos that a user leaves out: in data.py, and in a run that is resumed."""

import pytest

import data
import train
from catdog.errors import UserError
from catdog.photos import index
from conftest import draw_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 drawings, and a file of names: with comments, an extension, a path, one of no photo."""
    folder = tmp_path_factory.mktemp("exclusion")
    draw_photos(folder / "photos" / "train", 30)
    names = "# no animals\n\ncat.7  # a house\ntrain/dog.3.png\ndog.9.png\ncat.12345\n"
    (folder / "exclude.txt").write_text(names)
    return folder


def arguments(folder, *more):
    places = ["--data-dir", folder / "photos", "--cache-dir", folder / "cache"]
    return list(map(str, [*places, *more]))


def test_excluded_photos_leave_their_split_and_move_no_other(folder, caplog):
    dataset = data.load(folder / "photos", 40, folder / "cache")
    names = index.read_names(folder / "exclude.txt")
    assert names == ["cat.12345", "cat.7", "dog.9.png", "train/dog.3.png"]
    fewer = data.load(folder / "photos", 40, folder / "cache", names)
    assert "1 of 4 names match no photo: cat.12345" in caplog.text
    gone = {"cat.7", "dog.3", "dog.9"}
    assert {fewer.names[i] for i in fewer.excluded} == gone
    for split in index.SPLITS:
        before = {dataset.names[i] for i in dataset.members_of(split)}
        assert {fewer.names[i] for i in fewer.members_of(split)} == before - gone
    assert len(fewer.members_of("all")) == 57


def test_an_exclusion_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*missing.txt: No such file"):
        index.read_names(tmp_path / "missing.txt")
    assert index.read_names(None) == []


def test_data_py_prints_and_writes_what_there_is(folder, capsys):
    more = ["--exclude", folder / "exclude.txt", "--output", folder / "out"]
    assert data.main(arguments(folder, *more)) == 0
    text = capsys.readouterr().out
    assert "left out" in text and f"60 photos in {folder}" in text
    rows = (folder / "out" / "photos.csv").read_text().splitlines()
    assert len(rows) == 61 and sum(",left out," in row for row in rows) == 3


def test_a_resumed_run_leaves_the_same_photos_out(folder, tmp_path, monkeypatch):
    seen = []

    def keep(run, config, settings, dataset):
        seen.append([dataset.names[i] for i in dataset.excluded])
        return 0

    monkeypatch.setattr(train, "train_and_finish", keep)
    listed = tmp_path / "exclude.txt"
    listed.write_text("cat.7\ntrain/dog.9.png\n")
    more = ["--image-size", 32, "--exclude", listed, "--output", tmp_path / "run"]
    assert train.main(arguments(folder, *more)) == 0
    listed.unlink()  # the run keeps the names
    assert train.main(["--resume", str(tmp_path / "run")]) == 0
    assert seen == [["cat.7", "dog.9"]] * 2
