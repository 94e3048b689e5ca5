"""Submissions to Kaggle: which photos, and what is written for each."""

import pytest

from catdog.errors import UserError
from catdog.scores import kaggle

DOGS = {2: 0.9, 1: 0.0001, 10: None, 9: 0.5}


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("accuracy", ["1,0", "2,1", "9,0", "10,0"]),  # an unreadable photo: a class, not 0.5
        ("log-loss", ["1,0.01", "2,0.9", "9,0.5", "10,0.5"]),
    ],
)
def test_a_submission_has_a_label_for_every_id(tmp_path, caplog, metric, labels):
    kaggle.write(tmp_path / "submission.csv", DOGS, metric, clip=0.01)
    assert (tmp_path / "submission.csv").read_text().splitlines() == ["id,label", *labels]
    assert "Kaggle's competition has 12,500 photos, these are 4." in caplog.text


@pytest.mark.parametrize("folder", ["test1", "test", "."])
def test_photos_are_found_by_id(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in ("10.jpg", "9.JPG", "1.png", "cat.1.jpg", "3.txt", "x.jpg"):
        (tmp_path / folder / name).touch()
    found = kaggle.find(tmp_path)
    names = {1: "1.png", 9: "9.JPG", 10: "10.jpg"}
    assert found == {number: str(tmp_path / folder / name) for number, name in names.items()}
    assert list(found) == [1, 9, 10]


def test_two_photos_of_one_id_and_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected the folder of Kaggle's"):
        kaggle.find(tmp_path)
    for name in ("1.jpg", "01.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"expected one photo of each id, got .*01.jpg and 1.jpg"):
        kaggle.find(tmp_path)
