"""What tells whether photos look the same, whatever their names, sizes and encodings."""

import numpy as np
from PIL import Image

NEAR_BITS = 6  # of 64 in which the hashes of photos that look the same may differ


def look_hashes(images: np.ndarray) -> np.ndarray:
    """Return a hash of the look of each photo, uint64 `(n,)`.

    Each bit says whether a pixel of the grey photo, shrunk to 9x8, is lighter than its left
    neighbour (dHash, N. Krawetz 2013).
    """
    hashes = np.empty(len(images), np.uint64)
    for i, image in enumerate(images):
        grey = Image.fromarray(image).convert("L").convert("F")
        small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))  # the mean of each rectangle
        hashes[i] = np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)[0]
    return hashes


def are_near(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether the hashes, uint64 of shapes that broadcast, differ in few bits."""
    return np.bitwise_count(hashes ^ others) <= NEAR_BITS
