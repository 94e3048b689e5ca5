"""The data set: finds, splits, caches, streams and augments the photos.

    python data.py                                    what is under tmp/
    python data.py --suspects RUN --output DIR        photos whose label a model disputes

Arrays of photos are uint8, (n, size, size, 3), RGB, 0-255. Labels are numbers of classes.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import uuid
from pathlib import Path

import numpy as np
from tqdm import tqdm

import exclusion
import photos
from recipe import RECIPES
from terminal import UserError, printable, quiet, run_program, say

with quiet():
    import keras
    import tensorflow as tf

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # or it would take the memory that the backend needs

SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)


# --- Find -----------------------------------------------------------------------------------------

KAGGLE_NAME = re.compile(r"(cat|dog)\.(\d+)\.\w+", re.IGNORECASE)
NUMBER_NAME = re.compile(r"(?:(cat|dog)\.)?(\d+)\.\w+", re.IGNORECASE)
NOT_CLASSES = {"demo", "cache", "train", "test", "test1", "validation", "val", "petimages"}


@dataclasses.dataclass
class Found:
    """The labelled photos under a folder.

    root: the folder that `paths` are relative to; labels: (n,) int, index into `classes`;
    names: what identifies each photo whatever the layout, such as `cat.7`.
    """

    root: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    names: list[str]


def find(data_dir, cache_dir=None):
    """Finds the labelled photos under `data_dir`; the first of these layouts that fits wins.

    Kaggle's `train/cat.0.jpg`, Microsoft's `PetImages/Cat/0.jpg` (both also one folder further
    down), then one folder a class: `train/cats/...` or `cats/...`.

    Returns:
        A `Found`, or None where there is no labelled photo.
    Raises:
        UserError: `data_dir` is no folder, or holds photos of one class only.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data-dir: expected a folder, got {printable(data_dir)}")
    try:
        return _find(Path(data_dir), cache_dir)
    except OSError as error:
        raise UserError(
            f"--data-dir: cannot read {printable(error.filename)}: {error.strerror}"
        ) from None


def _find(root, cache_dir):
    ignored = {Path(cache_dir).resolve()} if cache_dir else set()

    def folders(parent):
        if not parent.is_dir():
            return []
        entries = sorted(entry.path for entry in os.scandir(parent) if entry.is_dir())
        paths = [Path(path) for path in entries if not Path(path).name.startswith(".")]
        return [path for path in paths if path.resolve() not in ignored]

    def class_folders(parent):
        return [path for path in folders(parent) if path.name.lower() not in NOT_CLASSES]

    for base in [root, *class_folders(root)]:
        # Photos named cat.N in a folder below are those of a class folder, such as cats/cat.0.jpg.
        for folder in (base / "train", base) if base is root else (base / "train",):
            if found := _find_flat(folder):
                return found
        if found := _find_folders(base / "PetImages", class_folders(base / "PetImages")):
            return found
    if found := _find_folders(root / "train", class_folders(root / "train")):
        return found
    found = _find_folders(root, class_folders(root))
    for folder in folders(root) if found else ():
        if folder.name.lower() in ("train", "val", "validation") and any(photos.find_files(folder)):
            say(f"{printable(folder)} is not taken for a class: that name means a split")
    return found


def _find_flat(folder):
    if not folder.is_dir():
        return None
    paths = sorted(entry.name for entry in os.scandir(folder) if KAGGLE_NAME.fullmatch(entry.name))
    if not paths:
        return None
    matches = [KAGGLE_NAME.fullmatch(path) for path in paths]
    members = [match[1].lower() for match in matches]
    names = [f"{match[1].lower()}.{int(match[2])}" for match in matches]
    return _found(folder, paths, members, names)


def _find_folders(root, folders):
    paths, members, names = [], [], []
    for folder in folders:
        member = class_name(folder.name)
        for path in photos.find_files(folder):
            below = Path(path).relative_to(folder).as_posix()
            paths.append(f"{folder.name}/{below}")
            members.append(member)
            names.append(identity(member, below))
    return _found(root, paths, members, names) if paths else None


def _found(root, paths, members, names):
    classes = sorted(set(members))
    if len(classes) < 2:
        raise UserError(
            f"--data-dir: expected photos of two classes or more, got only {classes[0]!r} "
            f"in {printable(root)}"
        )
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[member] for member in members], np.int32)
    return Found(Path(root), classes, paths, labels, names)


def class_name(folder_name):
    """The class that a folder stands for: its name, but `cat` for Cats and `dog` for dogs."""
    lower = folder_name.lower()
    if lower in ("cat", "cats", "dog", "dogs"):
        return lower.removesuffix("s")
    return printable(folder_name)  # it is shown, drawn, and kept as JSON


def identity(member, path):
    """What identifies a photo in every layout.

    Args:
        member: name of its class.
        path: its path below the class folder, with forward slashes.
    Returns:
        Class and number where the name is one of Kaggle's or Microsoft's (`cat.7`: the two number
        the photos alike), else class and path.
    """
    match = NUMBER_NAME.fullmatch(path)
    if match and member in ("cat", "dog") and (match[1] or member).lower() == member:
        return f"{member}.{int(match[2])}"
    return f"{member}/{path}"


# --- Split ----------------------------------------------------------------------------------------


def name_hashes(names):
    """(n,) uint64 of the names: the same on every machine, in every year."""
    digests = (hashlib.sha256(name.encode("utf-8", "surrogateescape")) for name in names)
    return np.array([int.from_bytes(d.digest()[:8], "big") for d in digests], np.uint64)


def split(names, digests):
    """Divides photos 80/10/10 by a hash of what identifies them.

    So neither a seed nor a file that is added moves a photo from one side to the other. Files with
    the same bytes go where the first of them by name goes.

    Args:
        names: (n,) what identifies each photo.
        digests: (n,) a digest of each file's bytes.
    Returns:
        (n,) int, index into `SPLITS`.
    """
    first = {}
    for name, digest in sorted(zip(names, digests, strict=True)):
        first.setdefault(digest, name)
    hashes = name_hashes([first[digest] for digest in digests])
    return np.searchsorted(np.cumsum(SHARES)[:2], hashes / 2.0**64, side="right")


# --- Cache ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Dataset:
    """Decoded photos with their labels and splits.

    images: (n, size, size, 3) uint8, memory-mapped; labels: (n,) int; names: (n,) what identifies
    each photo; splits: index arrays by name, without the photos that are left out; skipped: (path,
    reason) of what could not be decoded; root: the folder that `paths` are relative to; digests:
    (n,) of each file's bytes; excluded: the indices of the photos that are left out.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    paths: list[str]
    names: list[str]
    splits: dict[str, np.ndarray]
    skipped: list[tuple[str, str]]
    root: Path
    digests: list[str]
    excluded: np.ndarray

    def split_sizes(self):
        return {name: len(members) for name, members in self.splits.items()}

    def members_of(self, split):
        """The indices of a split, or of all of them for `all`."""
        if split == "all":
            return np.sort(np.concatenate(list(self.splits.values())))
        return self.splits[split]

    def batches(self, members, size=64):
        """Yields the images of `members` in order, uint8 (at most `size`, height, width, 3)."""
        for start in range(0, len(members), size):
            yield self.images[members[start : start + size]]


def load(data_dir, image_size, cache_dir, exclude=()):
    """Finds, decodes (once, into a cache on disk) and splits the photos under `data_dir`.

    Args:
        image_size: height and width in px of the decoded photos.
        cache_dir: folder for the cache; made where it is missing.
        exclude: names of photos to leave out, as `exclusion.read` gives them.
    Returns:
        A `Dataset`.
    Raises:
        UserError: unusable folder, no photo, a single class, too few photos to fill every split.
    """
    found = find(data_dir, cache_dir)
    if found is None:
        raise UserError(
            f"--data-dir: expected labelled photos (train/cat.0.jpg, PetImages/Cat/0.jpg or a "
            f"folder for each class), found none under {printable(data_dir)}"
        )
    images, index = cached_images(found, image_size, Path(cache_dir))
    good = [i for i, (*_, error) in enumerate(index) if error is None]
    names = [found.names[i] for i in good]
    labels = found.labels[good]
    digests = [index[i][3] for i in good]
    sides = split(names, digests)  # of all of them, so that leaving some out moves no other
    excluded = np.isin(good, exclusion.excluded(found, data_dir, exclude) if exclude else [])
    splits = {name: np.flatnonzero((sides == side) & ~excluded) for side, name in enumerate(SPLITS)}
    learnt = set(labels[splits["train"]])
    if min(map(len, splits.values())) == 0 or len(learnt) < len(found.classes):
        sizes = ", ".join(f"{name} {len(members)}" for name, members in splits.items())
        raise UserError(
            f"--data-dir: expected enough photos of every class for training, validation and "
            f"test, got {len(good)} photos in {printable(found.root)} ({sizes})"
        )
    return Dataset(
        images=images,
        labels=labels,
        classes=found.classes,
        paths=[found.paths[i] for i in good],
        names=names,
        splits=splits,
        skipped=[(path, error) for path, *_, error in index if error is not None],
        root=found.root,
        digests=digests,
        excluded=np.flatnonzero(excluded),
    )


MAGIC = b"photos\x00\x01"  # the last digit changes whenever decoding does


def cached_images(found, size, cache_dir):
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
        index = _write_cache(path, found.root, now, size)
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


def _write_cache(path, root, entries, size):
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    bar = tqdm(total=len(entries), unit=" photos", desc="decoding", disable=None, leave=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file, bar:
            index = []
            for entry, (image, digest, error) in _decode_all(root, entries, size):
                if error is None:
                    file.write(image)
                index.append([*entry, digest, error])
                bar.update()
            tail = json.dumps(index).encode()
            file.write(tail + len(tail).to_bytes(8, "big") + MAGIC)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--cache-dir: cannot write {printable(path)}: {reason}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return index


def _decode_all(root, entries, size):
    """Yields (entry, (pixels, digest, error)) in order; Pillow decodes outside Python's lock."""

    def decode(chunk):
        return [(entry, _decode(root / entry[0], size)) for entry in chunk]

    chunks = (entries[i : i + 64] for i in range(0, len(entries), 64))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = collections.deque()  # few, so that memory stays flat
        for chunk in chunks:
            waiting.append(pool.submit(decode, chunk))
            if len(waiting) > 2 * pool._max_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _decode(path, size):
    try:
        content = photos.read_bytes(path)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        return photos.load_photo(content, size).tobytes(), digest, None
    except photos.PhotoError as error:
        return None, None, str(error)


# --- Stream ---------------------------------------------------------------------------------------


def training_batches(dataset, settings, start_epoch=0):
    """Streams augmented batches of the training photos, epoch after epoch, in a new order each.

    Indices are shuffled, not images; then come batching, reading from the cache, augmentation.
    What a batch holds depends on the seed, the epoch and the step alone, so a resumed run sees
    what it would have seen. The last, incomplete batch of an epoch is left out.

    Returns:
        A `tf.data.Dataset` of (images, targets): float32 (batch, size, size, 3) in 0-255, where
        size is that of the epoch (`settings.image_sizes`), and `targets_of` the labels.
    """
    members = tf.constant(dataset.splits["train"], tf.int64)
    batch_size = min(settings.batch_size, len(members))
    sizes = tf.constant(settings.image_sizes())

    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(members, [settings.seed, epoch])
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)
        return batches.enumerate().map(lambda step, indices: (epoch, step, indices))

    def read_and_augment(epoch, step, indices):
        images, targets = read(dataset, indices)
        seed = tf.stack([settings.seed, epoch * 2**32 + step + 1])
        return augment(images, sizes[epoch], seed, settings), targets

    epochs = tf.data.Dataset.range(start_epoch, settings.epochs).flat_map(epoch_batches)
    # AUTOTUNE would start at 16 calls in parallel, each holding a batch.
    return epochs.map(read_and_augment, num_parallel_calls=os.cpu_count()).prefetch(4)


def evaluation_batches(dataset, members, batch_size, size=None):
    """Streams photos as they are, each once, in order: (images, targets), float32 in 0-255.

    `size` in px, by default that of the cache.
    """
    batches = tf.data.Dataset.from_tensor_slices(tf.constant(members, tf.int64)).batch(batch_size)

    def read_as_is(indices):
        images, targets = read(dataset, indices)
        if size not in (None, images.shape[1]):
            images = tf.image.resize(images, (size, size), antialias=True)
        return tf.cast(images, tf.float32), targets

    return batches.map(read_as_is, num_parallel_calls=os.cpu_count()).prefetch(2)


def read(dataset, indices):
    """Reads a batch from the cache, in the order of the file: uint8 images and their targets."""
    indices = tf.sort(indices)
    images = tf.numpy_function(lambda i: dataset.images[i], [indices], tf.uint8, stateful=False)
    images = tf.ensure_shape(images, (None, *dataset.images.shape[1:]))
    labels = tf.gather(tf.constant(dataset.labels), indices)
    return images, targets_of(labels, len(dataset.classes))


def targets_of(labels, classes):
    """(batch, 1) float32 of 0 and 1 for two classes, one-hot (batch, classes) beyond."""
    if classes == 2:
        return tf.cast(labels[:, None], tf.float32)
    return tf.one_hot(labels, classes)


def augment(images, size, seed, settings):
    """Random resized crop, mirror image, brightness, contrast, and an erased square.

    Args:
        images: uint8 (batch, height, width, 3).
        size: height and width in px of the result, an int tensor.
        seed: (2,) int64; the same seed gives the same result.
        settings: `crop_area`, `aspect`, `brightness` and `erase` of it.
    Returns:
        float32 (batch, size, size, 3) in 0-255.
    """
    batch = tf.shape(images)[0]
    draws = tf.random.stateless_uniform((10, batch), seed)
    area = settings.crop_area + draws[0] * (1 - settings.crop_area)
    aspect = tf.exp((2 * draws[1] - 1) * settings.aspect)  # width over height
    height = tf.minimum(tf.sqrt(area / aspect), 1)
    width = tf.minimum(tf.sqrt(area * aspect), 1)
    top = draws[2] * (1 - height)
    left = draws[3] * (1 - width)
    right = left + width
    mirrored = draws[4] < 0.5
    boxes = tf.stack(
        [top, tf.where(mirrored, right, left), top + height, tf.where(mirrored, left, right)], 1
    )
    images = tf.cast(images, tf.float32)
    # Where a crop shrinks a lot, average first: bilinear sampling would pick single pixels.
    images = tf.cond(
        2 * size <= tf.shape(images)[1],
        lambda: tf.nn.avg_pool2d(images, 2, 2, "VALID"),
        lambda: images,
    )
    images = tf.image.crop_and_resize(images, boxes, tf.range(batch), [size, size])
    contrast = 1 + (2 * draws[5] - 1)[:, None, None, None] * settings.brightness
    shift = (2 * draws[6] - 1)[:, None, None, None] * settings.brightness * 127.5
    images = tf.clip_by_value((images - 127.5) * contrast + 127.5 + shift, 0, 255)
    # Cutout (DeVries and Taylor 2017): the network must not rely on one part of the animal.
    position = (tf.range(size, dtype=tf.float32) + 0.5) / tf.cast(size, tf.float32)
    reach = settings.erase * draws[7][:, None] / 2
    rows = tf.abs(position - draws[8][:, None]) < reach
    columns = tf.abs(position - draws[9][:, None]) < reach
    return tf.where((rows[:, :, None] & columns[:, None, :])[..., None], 127.5, images)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Shows what is among the photos; changes nothing.")
    add = parser.add_argument
    add("--data-dir", default="tmp", metavar="DIR", help="the labelled photos (default: tmp)")
    add("--cache-dir", default="tmp/cache", metavar="DIR",
        help="where decoded photos are kept (default: tmp/cache)")
    add("--exclude", metavar="FILE", help=exclusion.HELP)
    add("--suspects", metavar="RUN",
        help="rank the photos of validation and test by how strongly this model disputes the label")
    add("--output", metavar="DIR", type=Path,
        help="a new folder for the whole list (CSV) and a contact sheet of the suspects (PNG)")
    args = parser.parse_args(argv)

    import inspection
    import runs

    if args.output:
        runs.check_new(args.output)
    classifier = None
    if args.suspects:
        runs.read_config(args.suspects, "--suspects")
        classifier = runs.Classifier(args.suspects)
    size = classifier.image_size if classifier else RECIPES["full"].score_size
    dataset = load(args.data_dir, size, args.cache_dir, exclusion.read(args.exclude))
    if classifier and dataset.classes != classifier.classes:
        raise UserError(f"--suspects: expected a model of {', '.join(dataset.classes)}, "
                        f"got one of {', '.join(classifier.classes)}")
    inspection.inspect(dataset, classifier, args.output)
    return 0


if __name__ == "__main__":
    run_program(main)
