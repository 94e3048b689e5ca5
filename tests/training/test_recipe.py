"""Settings: their limits, and the recipes."""

import dataclasses
import json

import pytest

from catdog.errors import UserError
from catdog.training.recipe import RECIPES, Settings, fit_to_size


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, None])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recipes_grow_the_images_to_their_final_size(recipe, epochs):
    epochs = epochs or RECIPES[recipe].epochs
    sizes = dataclasses.replace(RECIPES[recipe], epochs=epochs).image_sizes()
    assert len(sizes) == epochs
    assert sizes == sorted(sizes) and sizes[-1] == RECIPES[recipe].image_size
    assert all(size % 8 == 0 for size in [*sizes, RECIPES[recipe].score_size])


def test_few_photos_get_small_batches_and_short_runs_mild_augmentation():
    full = RECIPES["full"]
    assert fit_to_size(full, 18_000) == full
    few = fit_to_size(full, 320)
    assert few.batch_size == 20 and few.erase == few.dropout == 0 < full.erase
    assert fit_to_size(full, 320, batch_size=64).batch_size == 64
    assert fit_to_size(full, 5).batch_size == 5


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_settings_come_back_from_json_as_they_were(recipe):
    stored = json.loads(json.dumps(dataclasses.asdict(RECIPES[recipe])))
    assert Settings.from_dict(stored) == RECIPES[recipe]


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": -5}, {"epochs": 0}, {"epochs": "40"}, {"epochs": 1.5}, {"epochs": 10**9},
        {"epochs": True}, {"image_size": 100_000}, {"image_size": 16}, {"image_size": None},
        {"stages": []}, {"stages": "ab"}, {"stages": [0.5, 2]}, {"stages": [float("nan")]},
        {"stages": 1}, {"arch": "../evil"}, {"arch": ["plain"]}, {"lr": "x"}, {"lr": -1},
        {"lr": float("nan")}, {"seed": -1}, {"seed": 2**40}, {"crop_area": 9}, {"crop_area": 0},
        {"class_weight": "evil"}, {"precision": "float64"}, {"dropout": 1}, {"init": 3},
        {"batch_size": 0}, {"fold": 10}, {"recipe": 7}, {"unknown": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_of_another_type_or_outside_its_limits_is_refused(change):
    with pytest.raises(UserError, match="expected"):
        Settings.from_dict(dataclasses.asdict(Settings()) | change)


@pytest.mark.parametrize("settings", [None, [], "full", 3])
def test_settings_that_are_no_table_are_refused(settings):
    with pytest.raises(UserError, match="expected the settings of a run"):
        Settings.from_dict(settings)


def test_short_recipes_keep_their_own_mild_augmentation():
    for name in ("fast", "polish", "demo"):
        settings = RECIPES[name]
        assert fit_to_size(settings, 18_028) == settings
