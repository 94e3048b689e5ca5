"""The cache on disk of decoded photos, so that each is decoded once.

For each folder of photos and size there is one folder, such as `tmp/cache/0123456789ab-200`:

    images.npy   uint8 (good, size, size, 3), the photos that could be decoded
    index.npz    which files they were made of, and checksums
    checked      when images.npy was last compared with its checksums, and last used
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from catdog import files
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos import decode
from catdog.photos.found import Found
from catdog.photos.photo import PhotoError, content_of, load_photo

logger = logging.getLogger(__name__)

VERSION = 4  # to be raised whenever decoding or the layout of the cache changes
FILES = ("images.npy", "index.npz", "checked")
NAME = re.compile(r"[0-9a-f]{12}-\d+")
BLOCK = 64  # photos that share a checksum
MAX_UNUSED_DAYS = 30
WORTH_A_LINE = 10**8  # bytes; a smaller cache is written without a word


class _Damaged(Exception):
    """What is wrong with a cache, in words."""


def images(
    found: Found,
    size: int,
    cache_dir: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the decoded photos, from the cache if it holds just these files.

    Args:
        size: side of the squares, in pixels.
        cache_dir: folder of all caches; made if it is missing.
        on_progress: function of (done, total), called while photos are decoded.
    Returns:
        images: uint8 (good, size, size, 3), memory-mapped, the photos that could be decoded.
        digests: (n,) 16 bytes for every photo found, of its file's content; empty if it failed.
        errors: {number of the photo among those found: reason} of what could not be decoded.
    Raises:
        UserError: no photo can be decoded, or the cache cannot be written.
    """
    path = _path(found, size, cache_dir)
    _tidy(cache_dir, keep=path)
    source = _source(found)
    cached = _read(path, source, size)
    if cached is None or _can_now_be_read(found, cached[2]):
        _build(path, found, size, source, on_progress)
        cached = _read(path, source, size)
    if cached is None:
        raise UserError(f"cannot use {printable(path)}: another process is writing it")
    images, digests, errors = cached
    if len(images) == 0:
        raise UserError(
            f"expected photos, got {len(errors)} files that cannot be decoded; "
            f"the first, {printable(found.paths[0])}: {errors[0]}"
        )
    return images, digests, errors


def size_in_bytes(found: Found, size: int) -> int:
    """Return how much disk space the cache of these photos takes, at most."""
    names = sum(map(len, found.paths))  # characters, nearly always bytes
    return len(found.paths) * (3 * size * size + 64) + names + 10_000


def _path(found: Found, size: int, cache_dir: Path) -> Path:
    key = hashlib.sha256(os.fsencode(found.root.resolve())).hexdigest()[:12]
    return Path(cache_dir) / f"{key}-{size}"


def _source(found: Found) -> dict[str, np.ndarray]:
    """Return the names of the photos, and the bytes and time (in ns) of each file, as arrays.

    A million photos as lists of Python objects would take ten seconds and 600 MB to read.
    """

    def status(path):
        try:
            stat = os.stat(path)
        except OSError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns

    rows = (status(f"{found.root}/{name}") for name in found.paths)
    return {
        "names": np.frombuffer(os.fsencode("\0".join(found.paths)), np.uint8),
        "stats": np.fromiter(rows, np.dtype((np.int64, 2)), len(found.paths)),
    }


# --- Reading --------------------------------------------------------------------------------------


def _read(path, source, size):
    """Return images, digests and errors of a cache; None if it is of other files or damaged."""
    if not path.is_dir():
        return None
    try:
        index = _read_index(path / "index.npz")
        if index["version"] != VERSION:
            return None
        if not all(np.array_equal(index[key], source[key]) for key in source):
            return None
        good = len(index["digests"]) - len(index["errors"])
        images = _map_images(path / "images.npy", good, size)
        _check(path, images, index["checksums"])
        return images, index["digests"], index["errors"]
    except _Damaged as error:
        logger.warning(f"the cache {printable(path)} is damaged and is made anew: {error}")
        return None


def _read_index(path):
    """Return the arrays of the index, each of which has a CRC-32 in the archive, and the errors."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = ("version", "names", "stats", "digests", "checksums", "errors")
            index = {key: archive[key] for key in keys}
        errors = json.loads(index["errors"].tobytes())
        return index | {"errors": {int(number): reason for number, reason in errors.items()}}
    except (
        Exception
    ) as error:  # on changed bytes NumPy and zipfile raise nearly every kind there is
        raise _Damaged(f"{path.name}: {printable(str(error)[:100])}") from None


def _map_images(path, count, size):
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a file that was cut is one of its reasons
        raise _Damaged(f"{path.name}: {printable(str(error)[:100])}") from None
    if images.dtype != np.uint8 or images.shape != (count, size, size, 3):
        raise _Damaged(f"{path.name}: expected {count} images, got an array {images.shape}")
    return images


def _check(path, images, checksums):
    """Compare the images with their checksums, unless the file is untouched since the last time.

    The comparison reads 3 GB per second and core. That its size and times are the same costs
    nothing to see, and no program can change a byte without changing the second time.
    """
    stamp = _stamp(path / "images.npy")
    with contextlib.suppress(OSError):
        if (path / "checked").read_text() == stamp:
            os.utime(path / "checked")  # `_tidy` asks when the cache was last used
            return
    pixels = images.view(np.ndarray)  # slices of a memory map are slow
    blocks = (pixels[start : start + BLOCK] for start in range(0, len(pixels), BLOCK))
    with ThreadPoolExecutor() as pool:
        found = np.array(list(pool.map(zlib.crc32, blocks)), np.uint32)
    if changed := np.count_nonzero(found != checksums):
        raise _Damaged(f"the pixels of {changed:,} of {len(found):,} blocks have changed")
    with contextlib.suppress(OSError):  # a cache that may only be read is checked each time
        (path / "checked").write_text(stamp)


def _stamp(path):
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"


def _can_now_be_read(found, errors):
    """Return whether a skipped photo can be read now: its permission may have been corrected."""
    for i in errors:
        with contextlib.suppress(PhotoError):
            _decode(found.root / found.paths[i], 8)
            return True
    return False


# --- Writing --------------------------------------------------------------------------------------


def _build(path, found, size, source, on_progress):
    """Decode the photos into a new cache at `path`, unless another process is quicker."""
    if os.path.lexists(path) and not _remove(path):
        raise UserError(f"expected a cache or nothing at {printable(path)}, got other files")
    try:
        with files.atomic_folder(path) as temporary:
            needed = size_in_bytes(found, size)
            files.check_space(path.parent, needed)
            if needed > WORTH_A_LINE:
                logger.warning(
                    f"Decoding into {printable(path)}, which takes {files.amount(needed)} of disk"
                )
            _write(temporary, found, size, source, on_progress)
            (temporary / "checked").write_text(_stamp(temporary / "images.npy"))
    except UserError:
        if not path.is_dir():  # or else another process was quicker
            raise


def _write(folder, found, size, source, on_progress):
    total = len(found.paths)
    digests, errors = np.zeros(total, "S16"), {}
    checksums, good = np.zeros(-(-total // BLOCK), np.uint32), 0
    paths = ((found.root / name, None) for name in found.paths)
    stream = decode.Stream(paths, size, _decode)
    batches = stream.batches()
    with contextlib.closing(batches), open(folder / "images.npy", "wb") as file:
        _write_header(file, (total, size, size, 3))
        for number, result in enumerate(result for batch in batches for _, result in batch):
            if isinstance(result, PhotoError):
                errors[number] = str(result)
            else:
                image, digests[number] = result
                file.write(image)
                checksums[good // BLOCK] = zlib.crc32(image, checksums[good // BLOCK])
                good += 1
            on_progress(number + 1, total)
        _write_header(file, (good, size, size, 3))
        file.flush()
        os.fsync(file.fileno())
    with open(folder / "index.npz", "wb") as file:
        np.savez(
            file,
            version=np.array(VERSION),
            **source,
            digests=digests,
            errors=np.frombuffer(json.dumps(errors).encode(), np.uint8),
            checksums=checksums[: -(-good // BLOCK)],
        )
        file.flush()
        os.fsync(file.fileno())


def _write_header(file, shape):
    """Write the header of a .npy file, which NumPy pads so that any shape takes the same room."""
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _decode(path, size):
    """Return the pixels, and the digest of the file."""
    with content_of(path) as content:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        image = load_photo(content, size)
    return image, digest


# --- Tidying --------------------------------------------------------------------------------------


def _tidy(cache_dir, keep):
    """Remove the caches that were not used for a month, and what killed processes left behind."""
    files.remove_leftovers(cache_dir, name=NAME)
    for path in sorted(Path(cache_dir).glob("*")):
        with contextlib.suppress(OSError):
            days = files.age(path) / (24 * 3600)
            unused = path != keep and NAME.fullmatch(path.name) and days > MAX_UNUSED_DAYS
            if unused and _remove(path):
                logger.warning(
                    f"removed the cache {printable(path)}, which was not used for {days:.0f} days"
                )


def _remove(path):
    """Remove the folder of a cache if it is certainly one; return whether it was."""
    if path.is_symlink() or not path.is_dir() or not set(os.listdir(path)) <= set(FILES):
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True
