"""Pictures that explain: colours where the evidence is, at every size of a photo."""

import types

import numpy as np
import pytest
from PIL import Image

from catdog.errors import UserError
from catdog.runs.classifier import Prediction
from catdog.scores import explain


def test_heat_rises_from_dark_to_light():
    colours = explain.heat(np.linspace(0, 1, 100)).astype(int)
    assert colours.shape == (100, 3) and colours[0].tolist() == [0, 0, 4]
    assert (np.diff(colours.sum(1)) >= 0).all() and colours[-1].tolist() == [252, 255, 164]


def test_an_explanation_is_coloured_where_the_evidence_is():
    photo = Image.new("RGB", (400, 300), (120, 120, 120))
    evidence = explain.class_evidence(np.array([[[-3.0], [1.0]], [[1.0], [1.0]]]), label=0)
    image = np.asarray(explain.explanation(photo, evidence, "cat 90%"), int)
    red_over_blue = image[..., 0] - image[..., 2]
    assert red_over_blue[30, 30] > 50 and abs(red_over_blue[30, 370]) < 5


def test_a_region_ends_where_the_evidence_changes_its_sign():
    photo = Image.new("RGB", (400, 300), (120, 120, 120))
    reaches = []
    for against in (-1.0, -4.0):
        image = explain.explanation(photo, np.array([[1.0, against]]), "cat")
        row = np.asarray(image, int)[100]
        reaches.append(np.flatnonzero(row[:, 0] - row[:, 2] > 5).max())
    assert reaches[0] - reaches[1] > 20


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (140, 140), (1024, 400)])
def test_a_legend_says_what_the_colours_mean(size):
    image = explain.explanation(Image.new("RGB", size), np.full((2, 2), -1.0), "a class 98.7%")
    low = np.asarray(image, int)[size[1] // 2 :]
    yellow = (low[..., 0] > 150) & (low[..., 0] - low[..., 2] > 60)
    assert yellow.any()
    assert low[~yellow].min() >= 0 and yellow[:, -1].sum() == 0


@pytest.mark.parametrize("size", [(48, 48), (1, 1), (1300, 1), (1, 1300)])
def test_an_explanation_has_the_size_of_its_photo(size):
    assert explain.explanation(Image.new("RGB", size), np.eye(2), "cat 98.7%").size == size


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((640, 480), (320, 240)),
        ((10, 20), (160, 320)),
        ((1300, 1), (320, 1)),
        ((1, 9000), (1, 320)),
    ],
)
def test_fit_keeps_the_aspect_ratio_and_a_pixel(size, fitted):
    assert explain.fit(Image.new("RGB", size), 320).size == fitted


def test_explanations_refuse_a_network_whose_regions_are_mixed():
    class Mixed:
        classes, score_size, run = ["cat", "dog"], 32, "runs/mixed"

        def outputs(self, images):
            return {"probabilities": np.full((len(images), 2), 0.5)}

    with pytest.raises(UserError, match=r"expected a network that ends in global .*runs/mixed"):
        explain.Explanations(Mixed())


def test_layers_show_filters_and_feature_maps_of_a_network(tmp_path):
    import model

    network = model.build("plain", 2, 64)
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "photo.png")
    made = explain.Layers(network, 64)
    assert len(made.blocks.outputs) == 10 and made.filters.shape == (3, 3, 3, 32)
    picture = made.draw(
        Prediction(path=tmp_path / "photo.png", probabilities={"cat": 0.25, "dog": 0.75})
    )
    assert picture.width == explain.GAP + explain.SHOWN * (explain.TILE + explain.GAP)
    assert picture.height > 11 * explain.TILE


def test_layers_refuse_a_network_without_convolutions():
    import model

    with pytest.raises(UserError, match="expected a network with convolutions"):
        explain.Layers(model.build("dnn", 2, 32), 32)


def test_a_folder_gives_every_picture_a_name_of_its_own(tmp_path):
    drawer = types.SimpleNamespace(ending=".jpg", draw=lambda prediction: Image.new("RGB", (8, 8)))
    folder = explain.Folder(tmp_path, drawer)
    for path in ("a/cat.0.png", "b/cat.0.jpg", "CAT.0.gif"):
        folder.write(Prediction(path=path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["CAT.0-3.jpg", "cat.0-2.jpg", "cat.0.jpg"]
    assert str(folder) == f"pictures in {tmp_path}: 3"


def test_a_name_of_255_bytes_and_a_huge_photo_give_a_picture(tmp_path):
    drawer = object.__new__(explain.Explanations)
    path = tmp_path / ("\U0001f431" * 62 + ".png")
    Image.new("1", (100_000, 20)).save(path)
    (tmp_path / "new").mkdir()
    more = {"evidence": np.eye(2)[..., None], "probabilities": {"cat": 0.25, "dog": 0.75}}
    explain.Folder(tmp_path / "new", drawer).write(Prediction(path=path, **more))
    (picture,) = (tmp_path / "new").iterdir()
    assert Image.open(picture).size == (explain.MAX_SIDE, 1)
