"""Settings: their limits, flags and docs; the recipes."""

import dataclasses
import json

import pytest

from catdog.errors import UserError
from catdog.training import recipe
from catdog.training.recipe import RECIPES, fit_to_size
from catdog.training.settings import Settings, expected
from conftest import ROOT


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
        {"epochs": True}, {"image_size": 100_000}, {"image_size": 4}, {"image_size": None},
        {"stages": []}, {"stages": "ab"}, {"stages": [0.5, 2]}, {"stages": [float("nan")]},
        {"stages": 1}, {"arch": 3}, {"arch": ["plain"]}, {"lr": "x"}, {"lr": -1}, {"lr": 0},
        {"lr": float("nan")}, {"seed": -1}, {"seed": 2**40}, {"crop_area": 9}, {"crop_area": 0},
        {"class_weight": "evil"}, {"precision": "float64"}, {"dropout": 1}, {"init": 3},
        {"batch_size": 0}, {"fold": 10}, {"recipe": 7}, {"mirror": 1}, {"score_scale": 2},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_of_another_type_or_outside_its_limits_is_refused(change):
    with pytest.raises(UserError, match="expected"):
        Settings.from_dict(dataclasses.asdict(Settings()) | change)


def test_settings_of_another_release_are_read_but_not_resumed():
    stored = dataclasses.asdict(RECIPES["fast"])
    config = {"settings": {**stored, "sharpness": 0.1}, "versions": {"catdog": "0.9"}}
    assert Settings.from_dict(config["settings"]) == RECIPES["fast"]
    with pytest.raises(UserError, match=r"of version 0\.9, which can resume it"):
        Settings.to_resume(config)
    del stored["mirror"]
    assert Settings.from_dict(stored) == RECIPES["fast"]
    with pytest.raises(UserError, match=r"of version 0\.1\.0, which can resume it"):
        Settings.to_resume({"settings": stored})


def test_short_recipes_keep_their_own_mild_augmentation():
    for name in ("fast", "demo"):
        settings = RECIPES[name]
        assert fit_to_size(settings, 18_028) == settings


def test_networks_of_a_fixed_size_are_trained_and_scored_at_it():
    settings = Settings(epochs=5, image_size=44, stages=(1.0,), score_scale=1.0)
    assert settings.image_sizes() == [44] * 5 and settings.score_size == 44


def test_flags_check_settings_and_leave_what_is_not_given():
    flags = recipe.flags().parse_args(["--epochs", "3", "--no-mirror", "--lr", "0.5"])
    given = {name: value for name, value in vars(flags).items() if value is not None}
    assert given == {"epochs": 3, "mirror": False, "lr": 0.5}
    for wrong in (["--epochs", "3.5"], ["--lr", "0"], ["--class-weight", "None"], ["--fold", "10"]):
        with pytest.raises(SystemExit):
            recipe.flags().parse_args(wrong)


def test_docs_list_every_recipe_and_every_setting():
    rows = ["| setting | flag | default | values | what it is |", "|---|---|---|---|---|"]
    flags = {action.dest: action.option_strings[0] for action in recipe.flags()._actions}
    flags["arch"] = "--arch"  # of train.py, which knows the networks
    for field in dataclasses.fields(Settings):
        flag = f"`{flags[field.name]}`" if field.name in flags else ""
        default = json.dumps(field.default).strip('"')
        values, about = expected(field), field.metadata["about"]
        rows.append(f"| `{field.name}` | {flag} | {default} | {values} | {about} |")
    table, docs = "\n".join(rows), (ROOT / "docs/training.md").read_text()
    assert table in docs, f"the table of docs/training.md should be:\n{table}"
    for name, settings in RECIPES.items():
        sizes = ", ".join(map(str, dict.fromkeys(settings.image_sizes())))
        row = f"| {settings.epochs} | {sizes} | {settings.score_size} |"
        assert any(
            line.startswith(f"| `{name}` |") and line.endswith(row) for line in docs.splitlines()
        ), f"docs/training.md lacks of the recipe {name}: {row}"
