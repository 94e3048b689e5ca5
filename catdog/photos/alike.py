"""What tells whether photos look the same, whatever their names, sizes and encodings."""

import numpy as np
from PIL import Image

NEAR_BITS = 6  # of 64 in which the hashes of photos that look the same may differ
NEAR_LEVELS = 8.0  # of 255, the mean difference of the thumbnails of such photos
# Or the correlation of their thumbnails, whatever the exposure. Of the pairs of near hashes among
# 22,500 photos, it was above 0.99 for 32 copies, and below 0.95 for 174 others.
CORRELATION = 0.97


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


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """Return the hashes of the mirror images: what was lighter to the right is now to the left."""
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1).reshape(-1, 8, 8)
    return np.packbits(1 - bits[:, :, ::-1], axis=2).reshape(-1, 8).view(np.uint64)[:, 0]


def quick_hashes(images: np.ndarray, members: np.ndarray, step: int = 1) -> np.ndarray:
    """Return hashes as `look_hashes` of 16 rows alone, in a tenth of the time: uint64 `(m,)`.

    They are of the mirror images if `step` is -1.
    """
    height, width = images.shape[1:3]
    middles = (2 * np.arange(8) + 1) * height // 16
    rows = np.concatenate([(middles - 1).clip(0), middles])
    rows = images[members[:, None], rows][..., 1].astype(np.uint32)  # green says enough
    edges = np.round(np.arange(9) * width / 9).astype(int)  # the same from the right
    rows = np.add.reduceat(rows[:, :8] + rows[:, 8:], edges, axis=2)
    means = rows / np.diff([*edges, width]).clip(1)
    means = means[:, :, ::step]  # (n, 8, 9)
    bits = (means[:, :, 1:] > means[:, :, :-1]).reshape(-1, 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return the photos shrunk to 16x16, uint8 `(n, 16, 16, 3)`."""
    small = [Image.fromarray(image).resize((16, 16), Image.Resampling.BOX) for image in images]
    return np.array([np.asarray(image) for image in small], np.uint8).reshape(-1, 16, 16, 3)


def same_look(thumbnails: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare thumbnails in pairs, `(n, 16, 16, 3)` each.

    Returns:
        bool `(n,)`, whether they look the same, be one brighter or richer in contrast; and bool
        `(n,)`, whether they do without that.
    """
    pairs = [each.reshape(-1, 16 * 16 * 3).astype(np.float32) for each in (thumbnails, others)]
    equal = np.abs(pairs[0] - pairs[1]).mean(1) <= NEAR_LEVELS
    first, second = (each - each.mean(1, keepdims=True) for each in pairs)
    squares = (first**2).mean(1) * (second**2).mean(1)
    # Any two photos of one colour would correlate.
    alike = (first * second).mean(1) >= CORRELATION * np.sqrt(squares.clip(NEAR_LEVELS**4))
    return equal | alike, equal


def have_copies(images: np.ndarray, members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which `members` look like one of `others`, mirrored or not, bool `(m,)`.

    Of 2,250 among 20,000 photos in half a second.

    Args:
        images: uint8 `(n, height, width, 3)`.
        members, others: indices of images.
    """

    def hashes(indices, step=1):
        blocks = np.array_split(indices, len(indices) // 64 + 1)
        return np.concatenate([quick_hashes(images, block, step) for block in blocks])

    found, theirs = np.zeros(len(members), bool), hashes(others)
    for step in (1, -1):
        each = hashes(members, step)
        for start in range(0, len(members), 64):
            first, second = np.nonzero(are_near(each[start : start + 64, None], theirs))
            if len(first):
                small = thumbnails(images[members[start + first]][:, :, ::step])
                same, _ = same_look(small, thumbnails(images[others[second]]))
                found[start + first[same]] = True
    return found
