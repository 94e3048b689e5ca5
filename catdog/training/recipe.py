"""The recipes: settings that go together."""

import argparse
import dataclasses

from catdog.errors import UserError
from catdog.training.settings import Settings, add_flags

UNTURNED = {"rotation": 0.0, "corruption": 0.0, "mild_end": 0.0}
# Strong augmentation and dropout pay in long runs only. After 12 epochs at 48 px on 200 drawings
# per class, 62% of other drawings were right with the settings of `full`, and 77% with `MILD`.
MILD = {"crop_area": 0.35, "brightness": 0.2, "erase": 0.0, "dropout": 0.0, **UNTURNED}
SHORT_RUN = 2500  # steps
THREE_STAGES = (0.5, 0.75, 1.0)

# Decided by the photos or the device. They may differ between the folds.
DECIDED_BY_PHOTOS = ("batch_size", "precision", *MILD)

# name: (what it is for, the settings that differ from the defaults of `Settings`)
TABLE = {
    "full": ("highest accuracy", {}),
    "fast": (
        "94% on Dogs vs. Cats in the shortest time",
        dict(
            epochs=6, batch_size=64, lr=0.004, warmup=0.25, image_size=64,
            stages=(0.75, 0.75, 0.75, 0.875, 0.875, 1.0), **{**MILD, "crop_area": 0.5},
        ),
    ),
    "tune": (
        "the default with --init, from the weights of another run",
        dict(epochs=20, image_size=128, stages=THREE_STAGES, lr=0.001, **UNTURNED),
    ),
    "demo": (
        "the drawings of --demo",
        dict(epochs=5, batch_size=64, image_size=48, stages=(1,), **MILD),
    ),
}  # fmt: skip
RECIPES = {name: Settings(recipe=name, **changed) for name, (_, changed) in TABLE.items()}


def flags() -> argparse.ArgumentParser:
    """Return a parent parser of `--recipe` and the flags of the settings."""
    parser = argparse.ArgumentParser(add_help=False)
    uses = "; ".join(f"{name}: {use}" for name, (use, _) in TABLE.items())
    parser.add_argument(
        "--recipe", choices=RECIPES, help=f"default: full; {uses}".replace("%", "%%")
    )
    add_flags(parser, defaults)
    return parser


def defaults(name: str) -> str:
    """Return in brackets the default value of a setting, and those of recipes that differ."""
    values = {recipe: getattr(settings, name) for recipe, settings in RECIPES.items()}
    usual = getattr(Settings(), name)
    if usual is None:
        return ""
    others = [f"; {recipe}: {value}" for recipe, value in values.items() if value != usual]
    return f" (default: {usual}{''.join(others)})"


def of_epoch(settings: Settings, epoch: int) -> Settings:
    """Return the settings of an epoch, counted from 0. In the last epochs augmentation is mild.

    Some photos are still turned and corrupted there, or the network would forget such photos.
    """
    if epoch < round((1 - settings.mild_end) * settings.epochs):
        return settings
    some = {"rotation": settings.rotation / 4, "corruption": settings.corruption / 2}
    return dataclasses.replace(settings, **{**MILD, **some})


def check_same(run, settings: Settings) -> None:
    """Raise UserError if a `Run` was begun with other settings, apart from `DECIDED_BY_PHOTOS`."""
    if not run.has_begun():
        return
    for field in dataclasses.fields(Settings):
        begun, asked = (getattr(each, field.name) for each in (run.settings, settings))
        if field.name not in DECIDED_BY_PHOTOS and begun != asked:
            raise UserError(
                f"expected {field.name} {begun}, with which {run} was begun, got {asked}; use "
                "another --output"
            )


def fit_to_size(settings: Settings, photos: int, batch_size: int | None = None) -> Settings:
    """Return the settings for the given number of training photos.

    Few photos get small batches, so that an epoch has at least sixteen steps. A `batch_size` that
    is asked for is kept. A run of few steps gets `MILD` augmentation, if it erases squares.
    """
    batch_size = batch_size or min(settings.batch_size, max(8, photos // 16))
    settings = dataclasses.replace(settings, batch_size=min(batch_size, photos))
    if settings.erase and settings.epochs * photos < SHORT_RUN * settings.batch_size:
        settings = dataclasses.replace(settings, **MILD)
    return settings


def fit(settings: Settings, photos: int, batch_size: int | None) -> Settings:
    """Return the settings with batch size and precision for these photos and these devices.

    Args:
        photos: the number of training photos.
        batch_size: the one that is asked for, or None.
    """
    from catdog.training import devices

    settings = fit_to_size(settings, photos, batch_size)
    if batch_size is None:
        settings = dataclasses.replace(settings, batch_size=devices.divisible(settings.batch_size))
    return fit_to_machine(settings)


def fit_to_machine(settings: Settings) -> Settings:
    """Return the settings with the best precision for these devices, chosen by process 0."""
    from catdog.training import devices, optimizer

    precision = devices.broadcast(optimizer.best_precision(devices.devices()[0]).encode())
    return dataclasses.replace(settings, precision=precision.decode())
