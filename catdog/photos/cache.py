"""The cache on disk of decoded photos, so that each is decoded once."""

import collections
import concurrent.futures
import hashlib
import json
import os
import threading

import numpy as np
from tqdm import tqdm

from catdog import files
from catdog.photos import photo as photos
from catdog.errors import UserError
from catdog.files import printable

MAGIC = b"photos\x00\x03"  # the last digit changes whenever decoding or the index does


def images(found, size, cache_dir):
    """The decoded photos, from the cache where it holds just these files.

    One file holds it all, so that it appears under its name only when whole: the images one after
    another, then the four arrays of the index, where they begin, and a mark. The index is arrays
    because a million photos as lists of Python objects take ten seconds and 600 MB to read.

    Returns:
        images: (good, size, size, 3) uint8, memory-mapped, the photos that could be decoded.
        digests: (n,) 16 bytes for every photo found, of its file's content; empty where it failed.
        errors: {number of the photo among those found: reason} of what could not be decoded.
    """
    key = hashlib.sha256(os.fsencode(found.root.resolve())).hexdigest()[:12]
    path = cache_dir / f"{key}-{size}.photos"
    names = np.frombuffer(os.fsencode("\0".join(found.paths)), np.uint8)
    rows = (_stat(f"{found.root}/{name}") for name in found.paths)
    stats = np.fromiter(rows, np.dtype((np.int64, 2)), len(found.paths))
    index = _read_index(path)
    if index is not None and np.array_equal(index[0], names) and np.array_equal(index[1], stats):
        digests, errors = index[2], _errors(index[3])
    else:
        errors = None
    if errors is None or _can_now_be_read(found, errors):
        digests, errors = _write(path, found, size, names, stats)
    good = len(found.paths) - len(errors)
    if good == 0:
        raise UserError(
            f"--data-dir: expected photos, got {len(errors)} files that cannot be decoded; "
            f"the first, {printable(found.paths[0])}: {errors[0]}"
        )
    return np.memmap(path, np.uint8, "r", shape=(good, size, size, 3)), digests, errors


def _can_now_be_read(found, errors):
    """Whether a photo that was skipped is fine by now: a permission or a disk may be mended."""
    return any(_decode(found.root / found.paths[number], 8)[2] is None for number in errors)


def _stat(path):
    """The bytes of a file and when it was modified, in ns."""
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _read_index(path):
    """Names joined by NUL (uint8), stats (n, 2), digests (n,), errors as JSON (uint8); or None."""
    try:
        with open(path, "rb") as file:
            file.seek(-16, os.SEEK_END)
            tail = file.read(16)
            if tail[8:] != MAGIC:
                return None
            file.seek(int.from_bytes(tail[:8], "big"))
            return [np.load(file, allow_pickle=False) for _ in range(4)]
    except (OSError, ValueError, EOFError):
        return None


def _errors(array):
    return {int(number): reason for number, reason in json.loads(array.tobytes()).items()}


def _write(path, found, size, names, stats):
    bar = tqdm(total=len(found.paths), unit=" photos", desc="decoding", disable=None, leave=False)
    digests, errors = np.zeros(len(found.paths), "S16"), {}
    files.remove_leftovers(path.parent, age=24 * 3600)  # another process may be writing one now
    whole = files.atomic_file(path, "--cache-dir", make_folder=True)
    with bar, whole as temporary, open(temporary, "wb") as file:
        for number, (image, digest, error) in enumerate(_decode_all(found, size)):
            if error is None:
                file.write(image)
                digests[number] = digest
            else:
                errors[number] = error
            bar.update()
        start = file.tell()
        for array in (names, stats, digests, np.frombuffer(json.dumps(errors).encode(), np.uint8)):
            np.save(file, array)
        file.write(start.to_bytes(8, "big") + MAGIC)
    return digests, errors


def _decode_all(found, size):
    """Yields (pixels, digest, error) in order; Pillow decodes outside Python's lock."""

    stopped = threading.Event()  # or Ctrl-C would wait for all that the threads have been given

    def decode(chunk):
        return [_decode(found.root / path, size) for path in chunk if not stopped.is_set()]

    chunks = (found.paths[i : i + 64] for i in range(0, len(found.paths), 64))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = collections.deque()  # few, so that memory stays flat
        try:
            for chunk in chunks:
                waiting.append(pool.submit(decode, chunk))
                if len(waiting) > 2 * pool._max_workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            stopped.set()


def _decode(path, size):
    try:
        content = photos.read_bytes(path)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        return photos.load_photo(content, size), digest, None
    except photos.PhotoError as error:
        return None, None, str(error)
