"""Cats and dogs drawn with Pillow: a data set to try the programs on, with no download."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from catdog import files
from catdog.errors import UserError

NAMES = ("cat", "dog")
SETTINGS = "demo.json"  # written last: it marks the folder as a complete demo, and as ours
VERSION = 2  # to be raised when the drawings change, so that old ones are drawn anew
SUPERSAMPLE = 3  # factor by which they are drawn larger, then reduced: smooth edges

# fmt: off
FURS = ((250, 246, 238), (238, 214, 170), (226, 150, 70), (176, 104, 52), (112, 72, 48),
        (70, 64, 66), (140, 140, 148), (196, 196, 200), (108, 122, 146), (216, 178, 138))
BRIGHT = ((236, 92, 92), (244, 150, 170), (248, 200, 80), (110, 190, 120), (80, 160, 220),
          (150, 120, 210), (60, 180, 180), (250, 246, 238), (90, 90, 110), (216, 178, 138),
          (226, 150, 70))
# fmt: on
EYES = ((240, 200, 70), (140, 200, 90), (120, 190, 230), (190, 120, 60), (250, 250, 245))
NOSES = ((60, 44, 48), (96, 60, 52), (236, 130, 140))
PINK = (240, 140, 155)
INK = (52, 42, 48)
WHITE = (255, 255, 255)


def draw(label: int, rng: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw the head of a cat or a dog, a different one with each call of the same `rng`.

    Ears, muzzle and eyes have the shapes of the class. Place, size, tilt and colours come from the
    same distributions for cats and for dogs, so that only shape tells the class.

    Args:
        label: 0 for a cat, 1 for a dog.
        rng: the source of everything random in the drawing.
        size: side in pixels, at least 8.
    """
    side = size * SUPERSAMPLE
    image, head = _background(side, rng), Image.new("RGBA", (side, side))
    _draw_head(Pen(head, side / 2, side * rng.uniform(0.2, 0.32)), label == 1, rng)
    head = head.rotate(rng.normal(0, 15), Image.Resampling.BILINEAR)
    x, y = (rng.uniform(-0.2, 0.2, 2) * side).astype(int).tolist()
    image.paste(head, (x, y), head)
    pen = Pen(image, side / 2, side / 2)
    if rng.random() < 0.35:  # a ball in front, which may hide a part
        pen.egg(*rng.uniform(-0.9, 0.9, 2), 0.2, 0.2, _colour(rng, BRIGHT))
    return image.reduce(SUPERSAMPLE)


@dataclass(frozen=True)
class Pen:
    """Draws on an image in its own coordinates: the middle is at 0, 0, y goes down."""

    image: Image.Image
    middle: float  # px
    unit: float  # px

    def egg(self, x, y, width, height, colour, outline=None):
        """Draw an ellipse around a point, `width` and `height` from there to its edges."""
        box = self._pixels((x - width, y - height), (x + width, y + height))
        ImageDraw.Draw(self.image).ellipse(box, colour, outline, max(1, round(self.unit / 15)))

    def shape(self, points, colour, outline=None):
        """Draw a polygon."""
        width = max(1, round(self.unit / 15))
        ImageDraw.Draw(self.image).polygon(self._pixels(*points), colour, outline, width)

    def line(self, points, colour, width=0.06):
        pixels = max(1, round(width * self.unit))
        ImageDraw.Draw(self.image).line(self._pixels(*points), colour, pixels)

    def _pixels(self, *points):
        return [(self.middle + self.unit * x, self.middle + self.unit * y) for x, y in points]


def _colour(rng, palette):
    """Return one of the colours, slightly changed."""
    colour = np.add(palette[rng.integers(len(palette))], rng.integers(-18, 19, 3))
    return tuple(colour.clip(0, 255).tolist())


def _background(side, rng):
    """Draw a gradient of two colours with stripes, spots or nothing on it."""
    first, second, third = (_colour(rng, BRIGHT) for _ in range(3))
    angle, across = rng.uniform(0, 2 * np.pi), np.linspace(-90, 90, side)
    ramp = 127.5 + np.cos(angle) * across + np.sin(angle) * across[:, None]
    colours = [Image.new("RGB", (side, side), each) for each in (first, second)]
    image = Image.composite(*colours, Image.fromarray(ramp.astype(np.uint8)))
    pen, kind = Pen(image, side / 2, side / 2), rng.integers(3)
    for x in np.linspace(-1, 1, rng.integers(3, 8)) if kind == 0 else ():
        slant = rng.uniform(-0.5, 0.5)
        pen.line([(x - slant, -1), (x + slant, 1)], third, rng.uniform(0.05, 0.2))
    for _ in range(rng.integers(3, 10) if kind == 1 else 0):
        pen.egg(*rng.uniform(-1, 1, 2), *rng.uniform(0.05, 0.4, 2), third)
    return image


def _draw_head(pen, dog, rng):
    """Draw a head of radius 1 that looks to one side, perhaps without its ears or its mouth."""
    fur, second, eye, nose = (_colour(rng, each) for each in (FURS, FURS, EYES, NOSES))
    turn, missing = rng.uniform(-0.3, 0.3), rng.choice(["ears", "mouth", "", "", ""])
    # Some dogs have a cat's ears, but then they have a mouth: a person could still tell.
    pricked = not dog or (missing != "mouth" and rng.random() < 0.12)
    ear = fur if rng.random() < 0.5 else second
    length, splay = rng.uniform(0.5, 0.8), rng.uniform(0, 0.3)
    if missing != "ears" and pricked:
        for x in (-1, 1):
            tip = (x * (0.7 + splay), -0.8 - length)
            pen.shape([(x * 0.95, -0.3), tip, (x * 0.2, -0.8)], ear, INK)
    pen.egg(0, 0, rng.uniform(0.9, 1.05), rng.uniform(0.85, 0.95), fur, INK)
    for _ in range(rng.integers(0, 3)):  # patches
        pen.egg(*rng.uniform(-0.4, 0.4, 2), *rng.uniform(0.1, 0.3, 2), second)
    if missing != "ears" and not pricked:
        for x in (-1, 1):
            pen.egg(x * (0.85 + splay / 2), -0.7 + length, 0.28, length, ear, INK)
    for x in (turn - 0.4, turn + 0.4):
        pen.egg(x, -0.15, 0.2, 0.18, eye, INK)
        pen.egg(x + turn / 6, -0.15, 0.11 if dog else 0.05, 0.13, INK)
    if missing == "mouth":
        return
    if dog:
        if rng.random() < 0.5:  # a tongue
            pen.egg(turn, 0.8, 0.15, 0.3, PINK, INK)
        pen.egg(1.3 * turn, 0.42, 0.45, 0.36, second, INK)
        pen.egg(1.5 * turn, 0.25, 0.2, 0.14, nose, INK)
        return
    pen.egg(turn, 0.42, 0.3, 0.2, second)
    pen.shape([(turn - 0.13, 0.25), (turn + 0.13, 0.25), (turn, 0.4)], nose, INK)
    colour = INK if rng.random() < 0.5 else WHITE
    for x in (-1, 1):  # whiskers
        for y in (0.3, 0.45, 0.6):
            start = (turn + x * 0.3, 0.35 + y / 4)
            pen.line([start, (x * rng.uniform(0.9, 1.2), y)], colour, 0.04)


def make_demo(
    folder: str | os.PathLike,
    photos: int = 4000,
    seed: int = 0,
    size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Draw pictures, half of them cats, as `folder/train/cat.0.jpg` ... `dog.N.jpg`.

    Each picture depends only on the seed, its label and its number. The folder is written
    atomically. A demo of the same settings is reused, one of other settings is replaced.

    Args:
        photos: number of pictures, even.
        size: side in pixels, at least 8.
        progress: function of (done, total).
    Returns:
        The folder.
    Raises:
        UserError: the folder holds anything that was not drawn here, or cannot be written.
    """
    folder = Path(folder)
    settings = {"version": VERSION, "photos": photos, "seed": seed, "size": size}
    if _is_whole(folder, settings):
        return folder
    home = folder.resolve()  # a link to a folder elsewhere stays a link
    files.remove_leftovers(home.parent, name=home.name)
    with files.atomic_folder(home) as new:
        (new / "train").mkdir()
        for number in range(photos // 2):
            for label, name in enumerate(NAMES):
                picture = draw(label, np.random.default_rng([seed, label, number]), size)
                # As small as PNG, and written seven times as fast.
                picture.save(new / "train" / f"{name}.{number}.jpg", quality=92)
            progress(2 * (number + 1), photos)
        (new / SETTINGS).write_text(json.dumps(settings) + "\n", encoding="utf-8")
        old = files.temporary_path(home)
        if home.exists():  # a demo of other settings
            home.rename(old)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _is_whole(folder, settings):
    """Return True for a demo of these settings, False if one may be put here; else UserError."""
    if not folder.exists():
        return False
    try:
        top = set(os.listdir(folder))
        if not top:
            return False
        known = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        expected = {f"{name}.{i}.jpg" for name in NAMES for i in range(known["photos"] // 2)}
        found = set(os.listdir(folder / "train"))
        if known == settings and expected <= found:
            return True
        if top <= {SETTINGS, "train"} and found <= expected:
            return False
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise UserError(f"{folder} holds files that were not drawn here: expected a demo or nothing")
