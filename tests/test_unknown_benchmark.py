"""The benchmark of `unknown`: its pictures, and a row of its table."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import outsiders, unknown
from catdog.errors import UserError


@pytest.mark.parametrize("kind", outsiders.DRAWN)
def test_drawn_pictures_differ_and_are_always_the_same(kind):
    pictures = [image.tobytes() for image in outsiders.drawn(kind, 4)]
    assert len(set(pictures)) == 4
    assert pictures == [image.tobytes() for image in outsiders.drawn(kind, 4)]


def test_pictures_of_packages_are_rgb():
    found = outsiders.carried(outsiders.PHOTOS)  # scikit-learn and matplotlib are installed
    assert len(found) >= 3
    assert {image.mode for image in found} == {"RGB"}


def test_each_folder_below_a_folder_is_a_kind(tmp_path):
    for name, count in (("cars", 2), ("wolves", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    found = dict(unknown.kinds([str(tmp_path)], 32, 1))
    assert found["cars"].shape == (2, 32, 32, 3)
    assert found["wolves"].shape == (3, 32, 32, 3)
    assert found["drawn: text"].shape == (1, 32, 32, 3)
    assert next(unknown.kinds([str(tmp_path / "cars")], 32, 1))[0] == "cars"


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected pictures, got none"):
        list(unknown.kinds([str(tmp_path)], 32, 1))


def test_row_has_both_ways_refused_and_auroc():
    """Doubt tells nothing here, novelty everything."""
    known = np.linspace(0, 0.5, 1000), np.linspace(0, 1, 1000) * 0.98
    cells = unknown.row("cars", known, (known[0], np.ones(1000)))
    assert cells == ["cars", "1,000", "1%", "0.500", "100%", "1.000"]
    assert (
        unknown.markdown([cells]).splitlines()[2] == "| cars | 1,000 | 1% | 0.500 | 100% | 1.000 |"
    )


def test_scores_come_from_batches_in_order():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70, 4, 4, 3), np.uint8)

    def outputs(batch):
        flat = batch.reshape(len(batch), -1).astype(np.float32)
        return {"probabilities": flat[:, :2] / 255, "novelty": flat[:, 2] / 255}

    doubt, novel = unknown.scores(images, outputs)
    assert np.allclose(doubt, 1 - outputs(images)["probabilities"].max(axis=1))
    assert np.allclose(novel, outputs(images)["novelty"])
