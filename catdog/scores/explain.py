"""Pictures of why: the regions of a photo that spoke for its label, and what the layers see.

Pictures are drawn with Pillow alone, so that `--explain` starts as quickly as a prediction.
"""

import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from catdog import files
from catdog.photos import photo as photos
from catdog.runs import run as runs
from catdog.errors import UserError
from catdog.files import printable

INK, PAPER = "#1f2933", "#ffffff"
# From no activity to the most, light rising all the way: readable in grey and by the colour-blind.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)


def heat(values):
    """Colours values from 0 to 1: (...,) becomes uint8 (..., 3)."""
    place = np.clip(values, 0, 1) * (len(HEAT) - 1)
    low = np.minimum(place.astype(int), len(HEAT) - 2)
    part = (place - low)[..., None]
    return (HEAT[low] * (1 - part) + HEAT[low + 1] * part).round().astype(np.uint8)


class Folder:
    """A folder of pictures, one for each photo, none of them twice under one name."""

    def __init__(self, folder, ending):
        self.folder, self.ending, self.used = folder, ending, set()

    def write(self, image, photo):
        """Writes the picture `image` of the photo at the path `photo`, whole or not at all."""
        stem = printable(os.path.splitext(os.path.basename(photo))[0])[:80]
        name, count = stem, 1
        while name.casefold() in self.used:  # photos of one name in several folders
            count += 1
            name = f"{stem}-{count}"
        self.used.add(name.casefold())
        with files.atomic_file(self.folder / f"{name}{self.ending}") as temporary:
            image.save(temporary, quality=92)


# --- The regions that spoke for the label ---------------------------------------------------------


class Explanations:
    """Draws photos with what spoke for their label (a class activation map).

    Method: Zhou et al., "Learning Deep Features for Discriminative Localization", 2016.
    """

    ending = ".jpg"

    def __init__(self, classifier):
        """Raises UserError for a network that does not say which region a logit comes from."""
        self.classes = classifier.classes
        size = classifier.image_size
        if "evidence" not in classifier.outputs(np.zeros((1, size, size, 3), np.uint8)):
            raise UserError(
                "--explain: expected a network that ends in global average pooling and one fully "
                f"connected layer, got {printable(classifier.run)}: its fully connected layers mix "
                "all regions of the photo, so that none can be told apart"
            )

    def draw(self, path, probabilities, evidence):
        """Returns the picture of one photo, at its own size.

        probabilities: (classes,); evidence: (height, width, 1 or classes), see `runs.Classifier`.
        """
        label = int(probabilities.argmax())
        photo = photos.open_photo(path)
        text = f"{printable(self.classes[label])} {probabilities[label]:.1%}"
        return explanation(photo, class_evidence(evidence, label), text)


def class_evidence(evidence, label):
    """What each region says for `label` against the mean of all classes: (height, width)."""
    if evidence.shape[-1] == 1:  # the logit of class 1 of two
        return evidence[..., 0] * (0.5 if label == 1 else -0.5)
    return evidence[..., label] - evidence.mean(-1)


def explanation(photo, evidence, text):
    """Draws a photo in grey, in colours of fire where a region spoke for the label, and `text`.

    photo: a PIL image in RGB; evidence: (height, width) of any size, positive where it spoke for.
    """
    strength = np.maximum(evidence, 0) / max(evidence.max(), 1e-9)
    strength = Image.fromarray(strength.astype(np.float32))
    # Smooth: 256 px of it are enough, and Pillow enlarges bytes with little memory.
    strength = np.asarray(strength.resize((256, 256), Image.Resampling.BICUBIC)).clip(0, 1)
    opacity = Image.fromarray((160 * strength).astype(np.uint8)).resize(photo.size)
    colour = Image.fromarray(heat(0.35 + 0.5 * strength)).resize(photo.size)
    grey = photo.convert("L").point(lambda value: 40 + 0.75 * value).convert("RGB")
    image = Image.composite(colour, grey, opacity)
    draw_title(image, text)
    return image


def draw_title(image, text):
    """Writes `text` on a dark bar at the bottom, as large as the picture allows."""
    size = max(10, min(image.size) // 14)
    font = ImageFont.load_default(size)
    while size > 6 and font.getlength(text) > image.width - size // 2:
        size -= 1
        font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(image, "RGBA")
    top = image.height - round(1.5 * size)
    draw.rectangle((0, top, image.width, image.height), fill=(0, 0, 0, 190))
    draw.text((size // 2, top + round(0.75 * size)), text, fill=PAPER, font=font, anchor="lm")


# --- What the layers see --------------------------------------------------------------------------

TILE, GAP, SHOWN = 96, 8, 12  # px, px, feature maps of each block


class Layers:
    """Draws the first filters, and the feature maps of each photo after every block.

    A block is a convolution with all that follows it, up to the next one or to the pooling that
    ends in the fully connected layers.
    """

    ending = ".png"

    def __init__(self, classifier):
        network = runs.load_network(classifier.run / "model.keras")
        import keras

        self.classes, self.size = classifier.classes, classifier.image_size
        convolutions = [i for i, layer in enumerate(network.layers)
                        if isinstance(layer, keras.layers.Conv2D)]
        if not convolutions:
            raise UserError("--layers: expected a network with convolutions (Conv2D), "
                            f"got {printable(classifier.run)}")
        last = max(i for i, layer in enumerate(network.layers) if len(layer.output.shape) == 4)
        ends = [*(i - 1 for i in convolutions[1:]), last]
        self.blocks = keras.Model(network.inputs, [network.layers[i].output for i in ends])
        self.filters = network.layers[convolutions[0]].get_weights()[0]

    def draw(self, path, probabilities, evidence=None):
        """Returns the picture of one photo. probabilities: (classes,)."""
        image = photos.load_photo(path, self.size)
        maps = self.blocks.predict_on_batch(image[None].astype(np.float32))
        label = int(probabilities.argmax())
        title = f"{printable(self.classes[label])} {probabilities[label]:.1%}"
        return layers_picture(image, self.filters, [np.asarray(m)[0] for m in maps], title)


def layers_picture(image, filters, blocks, title):
    """Draws what a network makes of a photo, a row for each block.

    image: uint8 (size, size, 3), what the network sees; filters: (height, width, 3, n) of the first
    convolution; blocks: a (height, width, channels) of each block.
    """
    # Each filter about the mid grey of a weight of 0.
    tiles = filters.transpose(3, 0, 1, 2)
    tiles = 0.5 + 0.5 * tiles / np.abs(tiles).max((1, 2, 3), keepdims=True).clip(1e-9)
    tiles = (255 * tiles).round().astype(np.uint8)
    rows = [(f"{title}: what the network sees, {image.shape[1]}x{image.shape[0]} pixels",
             [image]),
            (f"the {len(tiles)} filters of the first convolution, "
             f"{filters.shape[1]}x{filters.shape[0]} pixels; grey is 0", list(tiles))]
    for number, maps in enumerate(blocks, start=1):
        height, width, channels = maps.shape
        strongest = np.argsort(-maps.mean((0, 1)), kind="stable")[:SHOWN]
        most = maps.max((0, 1)).clip(1e-9)
        rows.append((f"block {number}: the {len(strongest)} most active of {channels} feature maps "
                     f"of {width}x{height}", [heat(maps[..., i] / most[i]) for i in strongest]))

    columns = 16  # of filters, in the width of SHOWN feature maps
    width = GAP + SHOWN * (TILE + GAP)
    small = (width - GAP) // columns - GAP
    sizes = [2 * TILE, small, *[TILE] * len(blocks)]
    heights = [GAP + 24 + -(-len(tiles) * (size + GAP) // (width - GAP)) * (size + GAP)
               for (_, tiles), size in zip(rows, sizes, strict=True)]
    picture = Image.new("RGB", (width, sum(heights) + GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(16)
    top = GAP
    for (text, tiles), size, height in zip(rows, sizes, heights, strict=True):
        draw.text((GAP, top), text, fill=INK, font=font)
        each_row = (width - GAP) // (size + GAP)
        for i, tile in enumerate(tiles):
            place = (GAP + i % each_row * (size + GAP), top + 24 + i // each_row * (size + GAP))
            tile = Image.fromarray(tile).resize((size, size), Image.Resampling.NEAREST)
            picture.paste(tile, place)
        top += height
    return picture
