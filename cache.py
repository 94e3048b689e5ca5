"""The cache on disk of decoded photos, so that each is decoded once."""

import collections
import concurrent.futures
import hashlib
import json
import os
import threading

import numpy as np
from tqdm import tqdm

import files
import photos
from terminal import UserError, printable

MAGIC = b"photos\x00\x01"  # the last digit changes whenever decoding does


def images(found, size, cache_dir):
    """The decoded photos, from the cache where it holds just these files.

    One file holds it all, so that it appears under its name only when whole: the images one after
    another, then the index as JSON, its length and a mark.

    Returns:
        images: (good, size, size, 3) uint8, memory-mapped, the photos that could be decoded.
        index: a list [path, bytes, modified in ns, digest, error] for every photo found.
    """
    key = hashlib.sha256(os.fsencode(found.root.resolve())).hexdigest()[:12]
    path = cache_dir / f"{key}-{size}.photos"
    stats = [_stat(found.root / name) for name in found.paths]
    index = _read_index(path)
    now = [[name, *stat] for name, stat in zip(found.paths, stats, strict=True)]
    stale = index is None or [entry[:3] for entry in index] != now
    if stale or _can_now_be_read(index, found.root):
        index = _write(path, found.root, now, size)
    good = sum(entry[4] is None for entry in index)
    if good == 0:
        path, reason = index[0][0], index[0][4]
        raise UserError(
            f"--data-dir: expected photos, got {len(index)} files that cannot be decoded; "
            f"the first, {printable(path)}: {reason}"
        )
    return np.memmap(path, np.uint8, "r", shape=(good, size, size, 3)), index


def _can_now_be_read(index, root):
    """Whether a photo that was skipped is fine by now: a permission or a disk may be mended."""
    return any(_decode(root / name, 8)[2] is None for name, *_, error in index if error is not None)


def _stat(path):
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _read_index(path):
    try:
        with open(path, "rb") as file:
            file.seek(-16, os.SEEK_END)
            tail = file.read(16)
            if tail[8:] != MAGIC:
                return None
            length = int.from_bytes(tail[:8], "big")
            file.seek(-16 - length, os.SEEK_END)
            return json.loads(file.read(length))
    except (OSError, ValueError):
        return None


def _write(path, root, entries, size):
    bar = tqdm(total=len(entries), unit=" photos", desc="decoding", disable=None, leave=False)
    index = []
    files.remove_leftovers(path.parent, age=24 * 3600)  # another process may be writing one now
    whole = files.whole_file(path, "--cache-dir", make_folder=True)
    with bar, whole as temporary, open(temporary, "wb") as file:
        for entry, (image, digest, error) in _decode_all(root, entries, size):
            if error is None:
                file.write(image)
            index.append([*entry, digest, error])
            bar.update()
        tail = json.dumps(index).encode()
        file.write(tail + len(tail).to_bytes(8, "big") + MAGIC)
    return index


def _decode_all(root, entries, size):
    """Yields (entry, (pixels, digest, error)) in order; Pillow decodes outside Python's lock."""

    stopped = threading.Event()  # or Ctrl-C would wait for all that the threads have been given

    def decode(chunk):
        return [(entry, _decode(root / entry[0], size)) for entry in chunk if not stopped.is_set()]

    chunks = (entries[i : i + 64] for i in range(0, len(entries), 64))
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
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        return photos.load_photo(content, size).tobytes(), digest, None
    except photos.PhotoError as error:
        return None, None, str(error)
