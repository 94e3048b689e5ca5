"""Cats and dogs drawn with Pillow: a data set to try the programs on, with no download.

A drawing has three layers: background, animal, and now and then a thing in front of it. Ears, eyes,
mouth and tail have the shapes of the class; place, pose, colours, pattern and clothes come from the
same distributions for cats and for dogs, so that colour does not tell the class, only shape does.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from catdog import files
from catdog.errors import UserError
from catdog.files import printable

NAMES = ("cat", "dog")
SETTINGS = "demo.json"  # written last: it marks the folder as a complete demo, and as ours
VERSION = 1  # to be raised when the drawings change, so that old ones are drawn anew
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

CIRCLE = np.exp(2j * np.pi * np.arange(28) / 28)
SMILE = np.exp(1j * np.linspace(0.2, np.pi - 0.2, 6))


@dataclass(frozen=True)
class Pen:
    """A pen that draws on `image` in its own coordinates.

    Points are complex, x to the right, y downwards. The point `z` lies at the pixel
    `origin + unit * z`, so `unit` scales and rotates at once. Paint is a colour, or an image as
    large as `image` that shows through the shape.
    """

    image: Image.Image
    origin: complex
    unit: complex

    def moved(self, z: complex, turn: float = 0.0) -> "Pen":
        """Return a pen whose origin is at `z`, turned clockwise by `turn` radians."""
        return Pen(self.image, self.origin + self.unit * z, self.unit * np.exp(1j * turn))

    def line(self, points, colour, width=0.07):
        """Draw an open line through the points, `width` in units of the pen."""
        pixels = max(1, round(width * abs(self.unit)))
        ImageDraw.Draw(self.image).line(self._pixels(points), colour, pixels)

    def shape(self, points, paint, outline=INK):
        """Draw a filled polygon with an outline (none if None)."""
        pixels = self._pixels(points)
        if isinstance(paint, Image.Image):
            mask = Image.new("L", self.image.size)
            ImageDraw.Draw(mask).polygon(pixels, 255)
            box = mask.getbbox()  # only a small part of the image changes: twice as fast
            if box:
                self.image.paste(paint.crop(box), box, mask.crop(box))
        else:
            ImageDraw.Draw(self.image).polygon(pixels, paint)
        if outline:
            self.line([*points, points[0], points[1]], outline)

    def egg(self, z, rx, ry, paint, outline=INK, turn=0.0, taper=0.0):
        """Draw an ellipse around `z`; with a positive `taper` it is wider at its lower end."""
        x, y = CIRCLE.real, CIRCLE.imag
        self.shape(z + np.exp(1j * turn) * (rx * x * (1 + taper * y) + 1j * ry * y), paint, outline)

    def limb(self, points, start, end, paint, outline=INK):
        """Draw a leg or a tail: a Bezier curve of three points, from width `start` to `end`."""
        a, b, c = points
        t = np.linspace(0, 1, 10)
        middle = a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2
        along = np.gradient(middle)
        side = 1j * along / np.abs(along) * np.linspace(start, end, 10) / 2
        tip = c + side[-1] * np.exp(-1j * np.linspace(0.4, np.pi - 0.4, 5))
        self.shape(np.concatenate((middle + side, tip, (middle - side)[::-1])), paint, outline)

    def _pixels(self, points):
        return (self.origin + self.unit * np.asarray(points)).view(float).tolist()  # x, y, x, y ...


@dataclass(frozen=True)
class Look:
    """Paint of one animal, from the same distributions for cats and dogs."""

    fur: Image.Image | tuple
    light: tuple  # muzzle, paws
    ear: Image.Image | tuple
    eye: tuple
    nose: tuple
    cloth: tuple  # collar, hat


def draw(label: int, rng: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw a cat or a dog, a different one with each call of the same `rng`.

    Args:
        label: 0 for a cat, 1 for a dog.
        rng: the source of everything random in the drawing.
        size: side in pixels, at least 8.
    """
    if label not in (0, 1) or size < 8:
        raise ValueError(f"expected label 0 or 1 and size >= 8, got label {label} and size {size}")
    side = size * SUPERSAMPLE
    image = _background(side, rng)
    _animal(image, label == 1, rng)
    if rng.random() < 0.35:
        _thing_in_front(image, rng)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return image.reduce(SUPERSAMPLE)


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
        ValueError: impossible numbers.
        UserError: the folder holds anything that was not drawn here, or cannot be written.
    """
    if photos < 2 or photos % 2 or size < 8 or seed < 0:
        raise ValueError(
            "expected an even number of photos, size >= 8 and seed >= 0, "
            f"got {photos} photos, size {size} and seed {seed}"
        )
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
    raise UserError(
        f"{printable(folder)} holds files that were not drawn here: expected a demo or nothing"
    )


def _colour(rng, palette):
    """Return one of the colours, slightly changed."""
    colour = np.add(palette[rng.integers(len(palette))], rng.integers(-18, 19, 3))
    return tuple(colour.clip(0, 255).tolist())


def _background(side, rng):
    """Draw a gradient of two colours, with stripes, spots, hills or nothing on it, and ground."""
    colours = [_colour(rng, BRIGHT) for _ in range(3)]
    angle, across = rng.uniform(0, 2 * np.pi), np.linspace(-90, 90, side)
    ramp = 127.5 + np.cos(angle) * across + np.sin(angle) * across[:, None]
    ramp = Image.fromarray(ramp.astype(np.uint8))
    image = Image.composite(*(Image.new("RGB", (side, side), c) for c in colours[:2]), ramp)
    pen = Pen(image, side * (0.5 + 0.5j), side / 2 * np.exp(1j * rng.normal(0, 0.5)))
    kind = rng.integers(4)
    if kind == 0:
        for x in np.linspace(-1.4, 1.4, rng.integers(3, 8)):
            pen.line([x - 2j, x + 2j], colours[2], rng.uniform(0.05, 0.2))
    elif kind == 1:
        for _ in range(rng.integers(3, 10)):
            z = complex(*rng.uniform(-1, 1, 2))
            pen.egg(z, *rng.uniform(0.05, 0.4, 2), colours[2], None, rng.uniform(0, 3))
    elif kind == 2:
        for x in rng.uniform(-1, 1, rng.integers(1, 5)):
            top, width = rng.uniform(-0.9, 0.5), rng.uniform(0.2, 0.7)
            pen.shape([x - width + 1.5j, x + 1j * top, x + width + 1.5j], colours[2], None)
    if rng.random() < 0.4:
        y = rng.uniform(0.2, 0.8)
        pen.shape([-2 + 1j * y, 2 + 1j * y, 2 + 2j, -2 + 2j], _colour(rng, BRIGHT), None)
    return image


def _look(side, rng):
    """Draw fur with patches, stripes or nothing on it, and the colours that go with it."""
    first, second = _colour(rng, FURS), _colour(rng, FURS)
    pattern, fur = rng.integers(3), first
    if pattern:
        fur = Image.new("RGB", (side, side), first)
        pen = Pen(fur, side * (0.5 + 0.5j), side * np.exp(1j * rng.normal(0, 0.6)))
    if pattern == 1:
        for _ in range(rng.integers(3, 9)):
            z = complex(*rng.uniform(-0.5, 0.5, 2))
            pen.egg(z, *rng.uniform(0.05, 0.16, 2), second, None, rng.uniform(0, 3))
    elif pattern == 2:
        step = rng.uniform(0.08, 0.14)
        soft = tuple((a + b) // 2 for a, b in zip(first, second, strict=True))
        for x in np.arange(-0.7, 0.7, step):
            bend = rng.uniform(-0.06, 0.06)
            pen.line([x - 0.7j, x + bend, x + 0.7j], soft, step * rng.uniform(0.25, 0.5))
    return Look(
        fur=fur,
        light=second if rng.random() < 0.5 else tuple((v + 510) // 3 for v in first),
        ear=fur if rng.random() < 0.5 else second,
        eye=_colour(rng, EYES),
        nose=_colour(rng, NOSES),
        cloth=_colour(rng, BRIGHT),
    )


def _animal(image, dog, rng):
    """Draw an animal that sits, stands (or lies, if the legs are short), or its head alone."""
    side = image.width
    look = _look(side, rng)
    pose = rng.choice(["head", "sit", "stand"])
    # Middle of the whole animal and its extent, where the head is at 0 and has radius 1.
    middles = {"head": (0.1j, 3.1), "sit": (0.2 + 0.75j, 4.5), "stand": (-1 + 0.6j, 4.9)}
    middle, extent = middles[pose]
    unit = side / extent * rng.uniform(0.85, 1.12) * np.exp(1j * rng.normal(0, 0.13))
    place = side * (0.5 + 0.5j + complex(*rng.uniform(-0.08, 0.08, 2)))
    pen = Pen(image, place - unit * middle, unit)
    turn = rng.uniform(-0.8, 0.8)
    if pose == "sit":
        _sitting_body(pen, dog, look, rng)
    elif pose == "stand":
        _standing_body(pen, dog, look, rng)
        turn = abs(turn) if rng.random() < 0.8 else turn
    elif rng.random() < 0.7:
        pen.egg(2j, rng.uniform(0.8, 1.2), 1.3, look.fur)
    if rng.random() < 0.4:
        pen.limb((-0.7 + 0.7j, 1.3j, 0.7 + 0.7j), 0.25, 0.25, look.cloth)
        pen.egg(1.15j, 0.14, 0.14, _colour(rng, BRIGHT))
    _head(pen.moved(0, rng.normal(0, 0.15)), dog, look, turn, rng)


def _tail(pen, z, side, dog, look, rng):
    """Draw a tail from `z` to the right (`side` 1) or left (-1): a cat's is long."""
    up = 1j * rng.uniform(-1, 0.2)
    if dog:
        points = z, z + side * 0.6, z + side * rng.uniform(0.6, 1) + 0.9 * up
        pen.limb(points, 0.38, rng.uniform(0.1, 0.3), look.fur)
    else:
        points = z, z + side * 1.3 + 0.3j, z + side * rng.uniform(0.5, 1.1) + 1.6 * up
        pen.limb(points, 0.26, 0.22, look.fur)


def _sitting_body(pen, dog, look, rng):
    if rng.random() < 0.85:
        _tail(pen, 0.6 + 2.2j, 1, dog, look, rng)
    width = rng.uniform(0.7, 0.95)
    pen.egg(1.55j, width, 1.15, look.fur, taper=0.25)
    if rng.random() < 0.5:
        pen.egg(1.35j, width * 0.55, 0.7, look.light, None)
    for x in (-1, 1):
        pen.egg(x * width * 0.95 + 2.3j, 0.36, 0.42, look.fur)
    for x in (-0.32, 0.32):
        pen.limb((x + 1.5j, x * 1.2 + 2j, x + 2.5j), 0.36, 0.3, look.fur)
        pen.egg(x * 1.1 + 2.6j, 0.27, 0.17, look.light)


def _standing_body(pen, dog, look, rng):
    leg = rng.uniform(0.1, 1.1)
    if rng.random() < 0.85:
        _tail(pen, -2.4 + 0.9j, -1, dog, look, rng)
    for x, y in ((-2.0, 1.5), (-0.35, 1.5), (-2.35, 1.65), (-0.75, 1.65)):
        foot = x + rng.normal(0, 0.1) + 1j * (y + leg)
        pen.limb((x + 1.3j, x + 1j * (1.4 + leg / 2), foot), 0.42, 0.32, look.fur)
        pen.egg(foot + 0.06, 0.25, 0.16, look.light)
    pen.egg(-1.35 + 1.15j, 1.35, rng.uniform(0.6, 0.75), look.fur, turn=rng.normal(0, 0.06))


def _head(pen, dog, look, turn, rng):
    """Draw a head of radius 1 that looks left (`turn` -1) or right (1), perhaps without a part."""
    missing = rng.choice(["ears", "mouth", "eyes", "", "", ""])
    # Some dogs have a cat's ears, but then they have a mouth: a person could still tell.
    pricked = not dog or (missing != "mouth" and rng.random() < 0.12)
    if missing != "ears" and pricked:
        _pricked_ears(pen, look, rng)
    if dog:
        pen.egg(0, rng.uniform(0.85, 0.95), rng.uniform(0.88, 0.98), look.fur)
    else:
        if rng.random() < 0.5:
            for x in (-1, 1):
                tuft = x * np.array([0.8, 1.2, 1.05, 1.1, 0.5]) + 1j * np.array(
                    [0, 0.35, 0.4, 0.6, 0.7]
                )
                pen.shape(tuft, look.fur)
        pen.egg(0.03j, rng.uniform(0.95, 1.08), rng.uniform(0.82, 0.9), look.fur)
    if rng.random() < 0.5:
        pen.egg(0.3 * turn - 0.5j, 0.16, 0.4, look.light, None, taper=-0.4)
    if missing != "eyes":
        _eyes(pen.moved(0.3 * turn - 0.12j), dog, look, turn, rng)
    if missing != "ears" and not pricked:
        _hanging_ears(pen, look, rng)
    if missing != "mouth":
        (_dog_mouth if dog else _cat_mouth)(pen, look, turn, rng)
    if missing == "ears" or rng.random() < 0.1:
        _hat(pen, look, rng)


def _pricked_ears(pen, look, rng):
    height, splay = rng.uniform(0.55, 0.85), rng.uniform(0.2, 0.5)
    inner = PINK if rng.random() < 0.5 else look.light
    for x in (-1, 1):
        ear = pen.moved(x * 0.58 - 0.5j, x * splay)
        tip = -1j * height
        points = np.array(
            [-0.4 + 0.2j, -0.3 - 0.3j, tip - 0.04, tip + 0.04, 0.3 - 0.3j, 0.4 + 0.2j]
        )
        ear.shape(points, look.ear)
        ear.shape(0.6 * points, inner, None)


def _hanging_ears(pen, look, rng):
    length, spread = rng.uniform(0.45, 0.75), rng.uniform(0.1, 0.9)
    for x in (-1, 1):
        ear = pen.moved(x * 0.72 - 0.62j, -x * spread)
        ear.egg(1j * length * 0.85, 0.28, length, look.ear, taper=0.35)


def _eyes(pen, dog, look, turn, rng):
    apart, kind = 0.42 - 0.08 * abs(turn), rng.choice(["open", "open", "open", "dots", "closed"])
    for x in (-apart, apart):
        if kind == "closed":
            pen.line(x - 0.17 * SMILE, INK, 0.08)
        elif kind == "dots":
            pen.egg(x, 0.14, 0.16, INK)
            pen.egg(x + 0.05 - 0.06j, 0.05, 0.05, WHITE, None)
        elif dog:
            pen.egg(x, 0.18, 0.19, look.eye)
            pen.egg(x + 0.05 * turn, 0.12, 0.12, INK, None)
            pen.egg(x + 0.05 - 0.06j, 0.05, 0.05, WHITE, None)
        else:
            pen.egg(x, 0.23, 0.18, look.eye, turn=0.3 * np.sign(x))
            pen.egg(x + 0.05 * turn, 0.06, 0.17, INK, None)


def _cat_mouth(pen, look, turn, rng):
    mouth = pen.moved(0.4 * turn + 0.3j)
    for x in (-0.17, 0.17):
        mouth.egg(x + 0.08j, 0.22, 0.17, look.light, None)
    if rng.random() < 0.15:
        mouth.egg(0.25j, 0.08, 0.12, PINK)
    for x in (-0.15, 0.15):
        mouth.line(x + 0.06j + 0.15 * SMILE, INK, 0.06)
    mouth.shape([-0.13 - 0.1j, 0.13 - 0.1j, 0.03j], look.nose)
    if rng.random() < 0.8:
        colour = WHITE if rng.random() < 0.5 else INK
        for x in (-1, 1):
            for y in (-0.12, 0.06, 0.24):
                end = x * rng.uniform(0.85, 1.2) + 1j * y
                mouth.line([x * 0.35 + 1j * (0.06 + y / 3), end], colour, 0.05)


def _dog_mouth(pen, look, turn, rng):
    mouth = pen.moved(0.55 * turn + 0.38j)
    if rng.random() < 0.6:
        mouth.egg(0.1 * turn + 0.5j, 0.16, rng.uniform(0.2, 0.35), PINK, taper=0.2)
    mouth.egg(0.06j, 0.48, rng.uniform(0.36, 0.46), look.light, taper=0.15)
    for x in (-0.17, 0.17):
        mouth.line(x + 0.15j + 0.17 * SMILE, INK, 0.06)
    mouth.egg(0.15 * turn - 0.15j, 0.2, 0.15, look.nose, taper=-0.2)


def _hat(pen, look, rng):
    if rng.random() < 0.5:
        pen.egg(-0.72j, 0.95, 0.5, look.cloth, taper=0.1)
        pen.limb((-0.95 - 0.55j, -0.4j, 0.95 - 0.55j), 0.3, 0.3, look.light)
        pen.egg(-1.25j, 0.2, 0.2, look.light)
    else:
        pen.shape([-0.6 - 0.6j, -1.9j, 0.6 - 0.6j], look.cloth)
        pen.egg(-1.85j, 0.16, 0.16, look.light)


def _thing_in_front(image, rng):
    """Draw a ball, a flower or a leaf that may hide a part of the animal."""
    side = image.width
    pen = Pen(image, side * complex(*rng.uniform(0.05, 0.95, 2)), side * rng.uniform(0.07, 0.13))
    colour, kind = _colour(rng, BRIGHT), rng.integers(3)
    if kind == 0:
        pen.egg(0, 1, 1, colour, outline=None)
        pen.line([-0.9, 0.3j, 0.9], WHITE, 0.2)
    elif kind == 1:
        for petal in CIRCLE[::4]:
            pen.egg(0.7 * petal, 0.4, 0.4, colour, None)
        pen.egg(0, 0.4, 0.4, _colour(rng, BRIGHT), None)
    else:
        leaf = pen.moved(0, rng.uniform(0, 6))
        leaf.egg(0, 0.5, 1.2, colour, None)
        leaf.line([-1j, 1.5j], INK, 0.12)
