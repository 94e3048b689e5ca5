"""Pictures that explain: the regions of a photo that support its label, and what the layers see.

Drawn with Pillow alone, so that `predict.py` starts as quickly as without them.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from catdog import files
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos.photo import PhotoError, load_photo, open_photo
from catdog.runs import lines
from catdog.scores import fonts

INK, PAPER = "#1f2933", "#ffffff"
# From no activity to the most, ever lighter: readable in grey and by colour-blind people.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)
MAX_SIDE = 2000  # px, the longer side of a photo that is drawn; a larger one is made smaller
MAP_SIDE = 256  # px of the smooth map of evidence, before it gets the size of the photo


def heat(values: np.ndarray) -> np.ndarray:
    """Return values from 0 to 1, of any shape, as colours: uint8, one more axis of three."""
    places = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, places, channel) for channel in HEAT.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


class Folder:
    """A folder of pictures, one per photo, each with a name of its own."""

    def __init__(self, folder: Path, drawer: "Explanations | Layers"):
        self.folder, self.drawer, self.used = folder, drawer, set()

    def __str__(self) -> str:
        return f"pictures in {self.folder}: {len(self.used):,}"

    def write(self, prediction) -> None:
        """Draw the photo of a `Prediction` and write its picture atomically."""
        image = self.drawer.draw(prediction)
        stem = printable(os.path.splitext(os.path.basename(prediction.path))[0])
        stem = stem.encode()[:200].decode(errors="ignore")  # a file system takes 255 bytes
        name, count = stem, 1
        while name.casefold() in self.used:  # photos of the same name in several folders
            count += 1
            name = f"{stem}-{count}"
        self.used.add(name.casefold())
        with files.atomic_file(self.folder / f"{name}{self.drawer.ending}") as temporary:
            image.save(temporary, quality=92)


def fit(image: Image.Image, side: int) -> Image.Image:
    """Return the image, its longer side `side` px, its shorter side at least 1 px."""
    scale = side / max(image.size)
    return image.resize([max(1, round(length * scale)) for length in image.size])


def open_or_cached(dataset, member: int, side: int) -> Image.Image:
    """Return a photo of a dataset, or the cached one if it is gone, its longer side `side` px."""
    try:
        return fit(open_photo(dataset.root / dataset.paths[member], side), side)
    except PhotoError:
        return fit(Image.fromarray(dataset.images[member]), side)


# --- The regions that support the label -----------------------------------------------------------


class Explanations:
    """Draws photos with the regions that support their label, a class activation map.

    Method: Zhou et al., "Learning Deep Features for Discriminative Localization", 2016.

    Raises:
        UserError: the network does not compute which region a logit comes from.
    """

    ending = ".jpg"

    def __init__(self, classifier):
        size = classifier.score_size
        if "evidence" not in classifier.outputs(np.zeros((1, size, size, 3), np.uint8)):
            raise UserError(
                "expected a network that ends in global average pooling and one fully connected "
                f"layer, got {classifier.run}: its fully connected layers mix all "
                "regions of the photo"
            )

    def draw(self, prediction) -> Image.Image:
        """Return the picture of a `Prediction`; may raise PhotoError."""
        of_label = class_evidence(prediction.evidence, list(prediction).index(prediction.best))
        photo = open_photo(prediction.path, MAX_SIDE)
        return explanation(photo, of_label, title(prediction))


def title(prediction) -> str:
    """Return the label with its probability, or both in brackets behind "unknown".

    A name that no installed font can draw is the number of the class, from 1.
    """
    best = prediction.best
    name = fonts.name_or_number(lines.shown(best), list(prediction).index(best) + 1)
    text = f"{name} {prediction[best]:.1%}"
    return f"unknown ({text})" if prediction.unknown else text


def class_evidence(evidence: np.ndarray, label: int) -> np.ndarray:
    """Return the evidence of each region for `label`, minus that for the mean class.

    Args:
        evidence: `(height, width, 1 or classes)`.
    Returns:
        `(height, width)`, positive if the region supports the label.
    """
    if evidence.shape[-1] == 1:  # the logit of class 1 of two
        return evidence[..., 0] * (0.5 if label == 1 else -0.5)
    return evidence[..., label] - evidence.mean(-1)


def explanation(photo: Image.Image, evidence: np.ndarray, text: str) -> Image.Image:
    """Draw a photo in grey, with colours where a region supports the label.

    Args:
        photo: RGB.
        evidence: `(height, width)` of any size, positive if the region supports the label.
        text: for the bar at the bottom, which has a legend of the colours, too.
    """
    # Enlarged first, negative values set to 0 afterwards: the outline of a region is where the
    # evidence changes its sign, not the grid. Pillow enlarges bytes with less memory than floats.
    smooth = Image.fromarray((evidence / max(evidence.max(), 1e-9)).astype(np.float32))
    smooth = smooth.resize((MAP_SIDE, MAP_SIDE), Image.Resampling.BICUBIC)
    grey = photo.convert("L").point(lambda value: 40 + 0.75 * value).convert("RGB")
    image = _coloured(grey, np.asarray(smooth).clip(0, 1))
    draw_bar(image, text)
    return image


def _coloured(grey, strength):
    """Return the grey image with colours of `strength`, 0 to 1, of any height and width."""
    opacity = Image.fromarray((160 * strength).astype(np.uint8)).resize(grey.size)
    colour = Image.fromarray(heat(0.35 + 0.5 * strength)).resize(grey.size)
    return Image.composite(colour, grey, opacity)


def draw_bar(image: Image.Image, text: str) -> None:
    """Write `text` on a dark bar at the bottom and, if there is room, what the colours mean."""
    size = max(10, min(image.size) // 16)
    while size > 6 and fonts.for_pillow(text, size).getlength(text) > image.width - size // 2:
        size -= 1
    font, small = fonts.for_pillow(text, size), fonts.for_pillow("", max(8, round(0.7 * size)))
    line, margin, (less, more) = round(1.5 * size), size // 2, ("no support", "most")
    scale = 3 * size
    right = round(image.width - margin - small.getlength(more))
    left = round(right - scale - small.getlength(less) - 2 * margin)
    beside = left > font.getlength(text) + 2 * margin
    legend = beside or (left >= 0 and 4 * line < image.height)
    top = image.height - line * (2 if legend and not beside else 1)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rectangle((0, top, image.width, image.height), fill=(0, 0, 0, 190))
    draw.text((margin, top + line // 2), text, fill=PAPER, font=font, anchor="lm")
    if legend:
        middle = image.height - line // 2
        draw.text((left, middle), less, fill=PAPER, font=small, anchor="lm")
        draw.text((right, middle), more, fill=PAPER, font=small, anchor="lm")
        colours = _coloured(Image.new("RGB", (scale, size), "#808080"), np.linspace(0, 1, 64)[None])
        image.paste(colours, (right - margin - scale, middle - size // 2))


# --- What the layers see --------------------------------------------------------------------------

TILE, GAP, SHOWN, FILTERS = 96, 8, 12, 16  # px, px, feature maps per block, filters per row
WIDTH = SHOWN * (TILE + GAP) + GAP  # px


class Layers:
    """Draws the first filters, and the feature maps of each photo after every block.

    A block is a convolution with all that follows it, up to the next one or to the pooling that
    ends in the fully connected layers.

    Args:
        network: a functional `keras.Model`.
    Raises:
        UserError: the network has no convolution.
    """

    ending = ".png"

    def __init__(self, network, size: int):
        self.size = size
        maps = [layer for layer in network.layers if len(layer.output.shape) == 4]
        starts = [i for i, layer in enumerate(maps) if type(layer).__name__ == "Conv2D"]
        if not starts:
            raise UserError("expected a network with convolutions (Conv2D), got one without")
        outputs = [maps[i - 1].output for i in [*starts[1:], len(maps)]]
        self.blocks = type(network)(network.inputs, outputs)  # a keras.Model of the same layers
        self.filters = maps[starts[0]].get_weights()[0]

    def draw(self, prediction) -> Image.Image:
        """Return the picture of a `Prediction`; may raise PhotoError."""
        image = load_photo(prediction.path, self.size)
        maps = self.blocks.predict_on_batch(image[None].astype(np.float32))
        text = title(prediction)
        return layers_picture(image, self.filters, [np.asarray(m)[0] for m in maps], text)


def layers_picture(
    image: np.ndarray, filters: np.ndarray, blocks: list[np.ndarray], title: str
) -> Image.Image:
    """Draw what a network computes from a photo, one row per block.

    Args:
        image: uint8 `(size, size, 3)`, the input of the network.
        filters: `(height, width, 3, n)`, of the first convolution.
        blocks: `(height, width, channels)` of each block.
        title: the label.
    """
    # Each filter about the mid grey of a weight of 0.
    tiles = filters.transpose(3, 0, 1, 2)
    tiles = 0.5 + 0.5 * tiles / np.abs(tiles).max((1, 2, 3), keepdims=True).clip(1e-9)
    tiles = (255 * tiles).round().astype(np.uint8)
    text = f"the {len(tiles)} filters of the first convolution, {_shape(filters)} pixels; grey is 0"
    rows = [
        _row(f"{title}: the input of the network, {_shape(image)} pixels", [image], 2 * TILE),
        _row(text, tiles, WIDTH // FILTERS - GAP),
    ]
    for number, maps in enumerate(blocks, start=1):
        strongest = np.argsort(-maps.mean((0, 1)), kind="stable")[:SHOWN]
        tiles = [heat(maps[..., i] / maps[..., i].max().clip(1e-9)) for i in strongest]
        text = f"block {number}: the {len(tiles)} most active of {maps.shape[2]} feature maps of "
        rows.append(_row(text + _shape(maps), tiles, TILE))
    return Image.fromarray(np.concatenate(rows))


def _shape(array):
    return f"{array.shape[1]}x{array.shape[0]}"


def _row(text, tiles, side):
    """Draw arrays as squares of `side` px below a text: uint8 `(height, WIDTH, 3)`."""
    columns, text_height = WIDTH // (side + GAP), 32
    height = text_height + -(-len(tiles) // columns) * (side + GAP)
    row = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(row)
    draw.text((GAP, GAP), text, fill=INK, font=fonts.for_pillow(text, 16))
    for i, tile in enumerate(tiles):
        place = (GAP + i % columns * (side + GAP), text_height + i // columns * (side + GAP))
        row.paste(Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST), place)
    return np.asarray(row)
