"""Small pictures for tests."""

import numpy as np
from PIL import Image


def save(path, colour=None, size=8):
    """Write a small picture of one colour, by default one that depends on the path alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = colour or tuple(np.random.default_rng(list(str(path).encode())).integers(0, 256, 3))
    Image.new("RGB", (size, size), tuple(map(int, colour))).save(path)
    return path
