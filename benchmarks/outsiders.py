"""Pictures of no class to try `unknown` on: drawn ones, and those that installed packages carry.

Every function returns RGB images. Nothing is downloaded, and nothing is part of this project.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from catdog.photos import drawings

SENTENCE = (
    "invoice total date from subject meeting report page order price left right open save name "
    "the and of to in that it was for on are with as his they be at one have this or by hot but"
)
WORDS = SENTENCE.split()
WIDTH, HEIGHT = 480, 360  # px of a drawn picture


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(0, 256, 3).tolist())


def plain_colour(rng: np.random.Generator) -> Image.Image:
    """Return one colour, in half of the pictures with the noise of a camera."""
    pixels = np.full((HEIGHT, WIDTH, 3), _colour(rng), float)
    if rng.random() < 0.5:
        pixels += rng.normal(0, rng.uniform(1, 12), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def gradient(rng: np.random.Generator) -> Image.Image:
    """Return two or three colours that pass into each other."""
    colours = np.array([_colour(rng) for _ in range(3)], float)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.hypot(x, y) if rng.random() < 0.3 else np.cos(angle) * x + np.sin(angle) * y
    share = ((along - along.min()) / np.ptp(along))[..., None]
    pixels = colours[0] * (1 - share) + colours[1] * share
    if rng.random() < 0.5:
        pixels = pixels * (1 - share[::-1]) + colours[2] * share[::-1]
    return Image.fromarray(pixels.astype(np.uint8))


def noise(rng: np.random.Generator) -> Image.Image:
    """Return noise of one grain size, from single pixels to blots, coloured or grey."""
    grain = int(rng.choice([1, 2, 4, 8, 16, 32, 64]))
    channels = int(rng.choice([1, 3]))
    shape = (HEIGHT // grain + 1, WIDTH // grain + 1, channels)
    pixels = rng.normal(rng.uniform(80, 170), rng.uniform(20, 90), shape).clip(0, 255)
    small = Image.fromarray(np.broadcast_to(pixels, (*shape[:2], 3)).astype(np.uint8))
    kind = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    return small.resize((WIDTH, HEIGHT), kind)


def shapes(rng: np.random.Generator) -> Image.Image:
    """Return stripes, a chessboard, or circles, rectangles and lines in many colours."""
    image = Image.new("RGB", (WIDTH, HEIGHT), _colour(rng))
    pen, kind, colour = ImageDraw.Draw(image), rng.integers(3), _colour(rng)
    step = int(rng.integers(6, 80))
    if kind == 0:
        for x in range(0, WIDTH + HEIGHT, 2 * step):
            pen.line([x, 0, x - HEIGHT * rng.integers(0, 2), HEIGHT], colour, step)
    elif kind == 1:
        for row, y in enumerate(range(0, HEIGHT, step)):
            for x in range(step * (row % 2), WIDTH, 2 * step):
                pen.rectangle([x, y, x + step - 1, y + step - 1], colour)
    else:
        for _ in range(rng.integers(3, 40)):
            x, y, width, height = rng.integers(0, (WIDTH, HEIGHT, WIDTH // 3, HEIGHT // 3)).tolist()
            draw = (pen.ellipse, pen.rectangle, pen.line)[rng.integers(3)]
            draw([x, y, x + width, y + height], _colour(rng))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))


def _sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), words))


def text(rng: np.random.Generator) -> Image.Image:
    """Return a page of text, dark on light or light on dark, some of them turned a little."""
    light, dark = rng.integers(200, 256), rng.integers(0, 70)
    ink, paper = (light, dark) if rng.random() < 0.2 else (dark, light)
    image = Image.new("L", (WIDTH, HEIGHT), int(paper))
    pen, size = ImageDraw.Draw(image), int(rng.integers(10, 42))
    font, left = ImageFont.load_default(size), int(rng.integers(5, 60))
    for y in range(int(rng.integers(5, 60)), HEIGHT, int(size * rng.uniform(1.2, 1.8))):
        if rng.random() < 0.85:
            pen.text((left, y), _sentence(rng, 12), int(ink), font)
    turned = image.rotate(rng.normal(0, 6), fillcolor=int(paper)) if rng.random() < 0.5 else image
    return turned.convert("RGB")


def screenshot(rng: np.random.Generator) -> Image.Image:
    """Return windows with a title bar, text, buttons and panels on a plain background."""
    image = Image.new("RGB", (WIDTH, HEIGHT), _colour(rng))
    pen, dark = ImageDraw.Draw(image), rng.random() < 0.4
    paper, ink = ((30, 32, 36), (220, 220, 220)) if dark else ((248, 248, 248), (30, 30, 30))
    font, accent = ImageFont.load_default(int(rng.integers(9, 15))), _colour(rng)
    for _ in range(rng.integers(1, 4)):
        x, y = int(rng.integers(-20, 160)), int(rng.integers(-10, 120))
        right, bottom = x + int(rng.integers(200, 460)), y + int(rng.integers(150, 340))
        pen.rectangle([x, y, right, bottom], paper, ink)
        pen.rectangle([x, y, right, y + 22], accent)
        pen.text((x + 8, y + 4), _sentence(rng, 3), (255, 255, 255), font)
        panel = x + int(rng.integers(1, 120))
        pen.rectangle([x + 1, y + 23, panel, bottom - 1], tuple(v * 9 // 10 for v in paper))
        for line in range(y + 32, bottom - 40, 18):
            pen.text((panel + 10, line), _sentence(rng, int(rng.integers(1, 6))), ink, font)
        pen.rounded_rectangle([right - 80, bottom - 30, right - 10, bottom - 8], 5, accent)
    return image


def drawing(rng: np.random.Generator) -> Image.Image:
    """Return one of the cats and dogs of `train.py --demo`: drawn, yet of the two classes."""
    return drawings.draw(int(rng.integers(2)), rng, 256)


DRAWN: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "plain colours": plain_colour,
    "gradients": gradient,
    "noise": noise,
    "shapes": shapes,
    "text": text,
    "screenshots": screenshot,
    "drawn cats and dogs": drawing,
}


def drawn(kind: str, count: int) -> list[Image.Image]:
    """Return `count` pictures of a kind of `DRAWN`, always the same ones."""
    seed = list(DRAWN).index(kind)
    return [DRAWN[kind](np.random.default_rng((seed, number))) for number in range(count)]


def _package_folder(name: str) -> Path | None:
    import importlib.util

    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


PHOTOS = {  # what packages carry, without cats, dogs and what is no photo
    "skimage/data": (
        "astronaut.png brick.png camera.png clock_motion.png coffee.png coins.png grass.png "
        "gravel.png hubble_deep_field.jpg moon.png motorcycle_left.png motorcycle_right.png "
        "rocket.jpg"
    ),
    "sklearn/datasets/images": "china.jpg flower.jpg",
    "matplotlib/mpl-data/sample_data": "grace_hopper.jpg",
}
PICTURES = {
    "skimage/data": (
        "cell.png chessboard_GRAY.png chessboard_RGB.png color.png horse.png ihc.png logo.png "
        "microaneurysms.png page.png phantom.png retina.jpg text.png"
    ),
    "matplotlib/mpl-data/sample_data": "logo2.png Minduka_Present_Blue_Pack.png",
}


def carried(files: dict[str, str]) -> list[Image.Image]:
    """Return those pictures of `PHOTOS` or `PICTURES` whose package is installed."""
    found = []
    for folder, names in files.items():
        package, _, below = folder.partition("/")
        root = _package_folder(package)
        paths = [] if root is None else [root / below / name for name in names.split()]
        found += [Image.open(path).convert("RGB") for path in paths if path.is_file()]
    return found
