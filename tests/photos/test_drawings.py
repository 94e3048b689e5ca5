"""The drawn cats and dogs: told by shape, not by colour, and written atomically."""

import os

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catdog.errors import UserError
from catdog.files import temporary_path
from catdog.photos import drawings


def files(folder):
    """Relative path and bytes of every file below the folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def drawn():
    """1,200 drawings, uint8 (n, 64, 64, 3), and their labels."""
    labels = np.arange(1200) % 2
    pictures = [drawings.draw(y, np.random.default_rng([5, i])) for i, y in enumerate(labels)]
    return np.stack(pictures), labels


def held_out_accuracy(features, labels):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return cross_val_score(model, features, labels, cv=5).mean()


def test_mean_colours_do_not_tell_the_class(drawn):
    pictures, labels = drawn
    assert held_out_accuracy(pictures.mean(axis=(1, 2)), labels) < 0.6


def test_thumbnail_histograms_do_not_tell_the_class(drawn):
    pictures, labels = drawn
    thumbnails = pictures.reshape(-1, 8, 8, 8, 8, 3).mean(axis=(2, 4))  # (n, 8, 8, 3)
    bins = (thumbnails // 32).astype(int)
    histograms = (bins[..., None] == np.arange(8)).sum(axis=(1, 2))  # (n, 3, 8)
    assert held_out_accuracy(histograms.reshape(len(labels), -1), labels) < 0.6


@pytest.mark.parametrize("size", [8, 48, 65])
@pytest.mark.parametrize("label", [0, 1])
def test_draw_size_and_mode(label, size):
    picture = drawings.draw(label, np.random.default_rng(0), size)
    assert picture.size == (size, size)
    assert picture.mode == "RGB"


def test_draw_is_determined_by_the_generator():
    one, same, other = (drawings.draw(0, np.random.default_rng(s)).tobytes() for s in (1, 1, 2))
    assert one == same != other


def test_names_classes_and_sizes(tmp_path):
    calls = []
    folder = drawings.make_demo(
        tmp_path / "new" / "demo", photos=6, size=48, progress=lambda *call: calls.append(call)
    )
    assert folder == tmp_path / "new" / "demo"
    assert {p.name for p in (folder / "train").iterdir()} == {
        f"{name}.{i}.jpg" for name in ("cat", "dog") for i in range(3)
    }
    for path in (folder / "train").iterdir():
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((48, 48), "RGB")
    assert calls[-1] == (6, 6)


def test_each_picture_depends_on_seed_label_and_number_only(tmp_path):
    few = files(drawings.make_demo(tmp_path / "few", photos=4) / "train")
    many = files(drawings.make_demo(tmp_path / "many", photos=10) / "train")
    other = files(drawings.make_demo(tmp_path / "other", photos=4, seed=1) / "train")
    assert few.items() <= many.items()
    assert not set(few.values()) & set(other.values())
    assert len(set(many.values())) == 10


def test_second_call_reuses(tmp_path, monkeypatch):
    folder = drawings.make_demo(tmp_path / "demo", photos=4)
    (folder / ".DS_Store").write_text("left by a file manager")
    before = files(folder)
    monkeypatch.setattr(drawings, "draw", None)
    assert drawings.make_demo(folder, photos=4) == folder
    assert files(folder) == before


def test_other_settings_and_missing_pictures_are_drawn_anew(tmp_path):
    folder = drawings.make_demo(tmp_path / "demo", photos=4)
    drawings.make_demo(folder, photos=6)
    whole = files(folder)
    assert len(whole) == 7
    (folder / "train" / "dog.1.jpg").unlink()
    drawings.make_demo(folder, photos=6)
    assert files(folder) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "demo").mkdir()
    assert len(files(drawings.make_demo(tmp_path / "demo", photos=2))) == 3


@pytest.mark.parametrize("name", ["photo.jpg", "train/cat.0.jpg", "demo.json"])
def test_foreign_folder_is_refused(tmp_path, name):
    path = tmp_path / "demo" / name
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    with pytest.raises(UserError, match="demo holds files that were not drawn here"):
        drawings.make_demo(tmp_path / "demo", photos=4)
    assert files(tmp_path) == {f"demo/{name}": b"[]"}


def test_added_files_are_never_deleted(tmp_path):
    folder = drawings.make_demo(tmp_path / "demo", photos=4)
    (folder / "train" / "mine.jpg").write_text("mine")
    before = files(folder)
    with pytest.raises(UserError, match="not drawn here"):
        drawings.make_demo(folder, photos=6)
    assert files(folder) == before


def test_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UserError, match="not drawn here"):
        drawings.make_demo(tmp_path / "demo", photos=4)
    assert (tmp_path / "demo").read_text() == "mine"


def test_interrupted_drawing_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawings.make_demo(tmp_path / "demo", photos=200, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_drawing_left_is_removed_by_the_next(tmp_path):
    left = temporary_path(tmp_path / "demo")
    (left / "new" / "train").mkdir(parents=True)
    dead = left.with_name(left.name.replace(f".{os.getpid()}.", ".999999999."))
    left.rename(dead)
    drawings.make_demo(tmp_path / "demo", photos=2, size=8)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
