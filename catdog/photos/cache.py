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
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from catdog import files
from catdog.errors import UserError
from catdog.photos import decode
from catdog.photos.found import Found
from catdog.photos.photo import PhotoError, content_of, load_photo

logger = logging.getLogger(__name__)

VERSION = 5  # to be raised whenever decoding or the layout of the cache changes
FILES = ("images.npy", "index.npz", "checked")
NAME = re.compile(r"[0-9a-f]{12}-\d+")
LEFTOVER = re.compile(rf"\.[0-9a-f]{{8}}\..*{NAME.pattern}")
BLOCK = 64  # photos that share a checksum
MAX_UNUSED_DAYS = 30
WAIT = 0.5  # seconds between two looks at whether another process has decoded the photos
WORTH_A_LINE = 10**8  # bytes; a smaller cache is written without a word
KEYS = ("version", "names", "stats", "digests", "checksums", "errors")  # of index.npz


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
        images: `Images`, uint8 (good, size, size, 3), the photos that could be decoded.
        digests: (n,) 16 bytes for every photo found, of its file's content; empty if it failed.
        errors: {number of the photo among those found: reason} of what could not be decoded.
    Raises:
        UserError: no photo can be decoded, or the cache cannot be written.
    """
    path = _path(found, size, cache_dir)
    _tidy(cache_dir, keep=path)
    source = _source(found)
    cached = _read_good(path, found, source, size)
    if cached is None:
        with _locked(path) as waited:
            if waited:
                cached = _read_good(path, found, source, size)
            if cached is None:
                _build(path, found, size, source, on_progress)
                cached = _read(path, found, source, size)
    if cached is None:
        raise UserError(f"the photos changed while they were decoded into {path}")
    return cached


def size_in_bytes(found: Found, size: int) -> int:
    """Return how much disk space the cache of these photos takes, at most."""
    names = sum(map(len, found.paths))  # characters, nearly always bytes
    return len(found.paths) * (3 * size * size + 64) + names + 10_000


def _path(found: Found, size: int, cache_dir: Path) -> Path:
    key = hashlib.sha256(os.fsencode(found.root.resolve())).hexdigest()[:12]
    return Path(cache_dir) / f"{key}-{size}"


def _source(found: Found) -> dict[str, np.ndarray]:
    """Return the names of the photos, and the bytes and times (in ns) of each file, as arrays.

    The second time is set by the system at any change, also if two files change places. A million
    photos as lists of Python objects would take ten seconds and 600 MB to read.
    """

    def status(path):
        try:
            stat = os.stat(path)
        except OSError:
            return 0, 0, 0
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    rows = (status(f"{found.root}/{name}") for name in found.paths)
    return {
        "names": np.frombuffer(os.fsencode("\0".join(found.paths)), np.uint8),
        "stats": np.fromiter(rows, np.dtype((np.int64, 3)), len(found.paths)),
    }


# --- Reading --------------------------------------------------------------------------------------


class Images(np.memmap):
    """Photos of a cache, mapped. A photo of a file that was cut meanwhile is a UserError.

    Without that look at the file, which takes a microsecond, the system would end the process.
    """

    file = None  # of the whole array; its parts, which are used at once, have none

    def __getitem__(self, index):
        if self.file and os.fstat(self.file.fileno()).st_size < self.offset + self.nbytes:
            raise UserError(f"{self.filename} was cut while it was in use: run the command again")
        return super().__getitem__(index)


def _read_good(path, found, source, size):
    """Return what `_read` does; None if a photo that was skipped can be read by now."""
    cached = _read(path, found, source, size)
    return None if cached and _can_now_be_read(found, cached[2]) else cached


def _read(path, found, source, size):
    """Return images, digests and errors of a cache; None if it is of other files or damaged."""
    if not path.is_dir():
        return None
    try:
        with files.reading(path / "index.npz"), np.load(path / "index.npz") as archive:
            index = {key: archive[key] for key in KEYS}  # each has a CRC-32 in the archive
            errors = json.loads(index["errors"].tobytes())
            index["errors"] = errors = {int(number): reason for number, reason in errors.items()}
        if index["version"] != VERSION or not _same_files(path, found, source, index):
            return None
        shape = len(index["digests"]) - len(errors), size, size, 3
        with files.reading(path / "images.npy"):
            images = np.load(path / "images.npy", mmap_mode="r").view(Images)
            images.file = open(path / "images.npy", "rb")  # noqa: SIM115  as long as the array is
            if images.dtype != np.uint8 or images.shape != shape:
                raise ValueError(f"expected images {shape}, got {images.shape}")
        _check(path, images, index["checksums"])
        return images, index["digests"], errors
    except UserError as error:
        logger.warning(f"the cache {path} is damaged and is made anew: {error}")
        return None


def _same_files(path, found, source, index):
    """Return whether a cache was made of these files.

    Of those that changed in size or time, the content is compared: a folder that was copied or
    restored is not decoded anew. Whether those that were skipped can be read is asked elsewhere.
    """
    if not np.array_equal(index["names"], source["names"]):
        return False
    other = index["stats"] != source["stats"]
    other[list(index["errors"])] = False
    if other[:, 0].any():  # sizes
        return False
    if len(changed := np.flatnonzero(other.any(1))) == 0:
        return True

    def is_same(i):
        with contextlib.suppress(PhotoError), content_of(found.root / found.paths[i]) as content:
            return np.array(_digest(content), "S16") == index["digests"][i]
        return False

    with ThreadPoolExecutor() as pool:
        if not all(pool.map(is_same, changed)):
            return False
    with contextlib.suppress(UserError):  # a cache that may only be read is compared each time
        _write_index(path / "index.npz", index | source)
    return True


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
        raise UserError(f"the pixels of {changed:,} of {len(found):,} blocks have changed")
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


@contextlib.contextmanager
def _locked(path):
    """Hold the lock of a cache; yield whether another process, which decodes, had to end first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = files.temporary_path(path)
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    with contextlib.ExitStack() as stack:
        waited = False
        while True:
            try:
                stack.enter_context(files.lock(path.with_name(f".{path.name}.lock")))
                break
            except UserError as error:
                if not waited:
                    logger.warning(f"waiting: {error}")
                waited = True
                time.sleep(WAIT)
        files.remove_leftovers(path.parent, name=path.name)
        yield waited


def _build(path, found, size, source, on_progress):
    """Decode the photos into a new cache at `path`."""
    if os.path.lexists(path) and not _remove(path):
        raise UserError(f"expected a cache or nothing at {path}, got other files")
    with files.atomic_folder(path) as temporary:
        needed = size_in_bytes(found, size)
        files.check_space(path.parent, needed)
        if needed > WORTH_A_LINE:
            logger.warning(f"Decoding into {path}, which takes {files.amount(needed)} of disk")
        _write(temporary, found, size, source, on_progress)
        (temporary / "checked").write_text(_stamp(temporary / "images.npy"))


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
    checksums = checksums[: -(-good // BLOCK)]
    index = {"version": VERSION, "digests": digests, "errors": errors, "checksums": checksums}
    _write_index(folder / "index.npz", index | source)


def _write_index(path, index):
    errors = np.frombuffer(json.dumps(index["errors"]).encode(), np.uint8)
    with files.atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **index | {"errors": errors})


def _write_header(file, shape):
    """Write the header of a .npy file, which NumPy pads so that any shape takes the same room."""
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _decode(path, size):
    """Return the pixels, and the digest of the file."""
    with content_of(path) as content:
        return load_photo(content, size), _digest(content)


def _digest(content):
    return hashlib.blake2b(content, digest_size=16).digest()


# --- Tidying --------------------------------------------------------------------------------------


def _tidy(cache_dir, keep):
    """Remove the caches that were not used for a month, and what was left behind a day ago.

    Whether a process still runs cannot be asked from another container.
    """
    for path in Path(cache_dir).glob(".*"):
        with contextlib.suppress(OSError):
            is_left = LEFTOVER.fullmatch(path.name) and files.age(path) > files.LEFTOVER_AGE
            if is_left and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
    for path in sorted(Path(cache_dir).glob("*")):
        with contextlib.suppress(OSError):
            days = files.age(path) / (24 * 3600)
            unused = path != keep and NAME.fullmatch(path.name) and days > MAX_UNUSED_DAYS
            if unused and _remove(path):
                logger.warning(f"removed the cache {path}, which was not used for {days:.0f} days")


def _remove(path):
    """Remove the folder of a cache if it is certainly one; return whether it was."""
    if path.is_symlink() or not path.is_dir() or not set(os.listdir(path)) <= set(FILES):
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True
