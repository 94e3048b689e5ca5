"""The data set: splits, streams and augments the photos.

    python data.py                                    what is under tmp/
    python data.py --suspects RUN --output DIR        photos whose label a model disputes

Arrays of photos are uint8, (n, size, size, 3), RGB, 0-255. Labels are numbers of classes.
"""

from catdog import cli as terminal
import argparse
import dataclasses
import functools
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

from catdog.photos import cache
from catdog.photos import exclusion
from catdog import files
from catdog.photos import index as layouts
from catdog.photos.index import SPLITS
from catdog.training.recipe import RECIPES
from catdog.backend import quiet
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable, some_names

try:
    with quiet():
        import keras
        import tensorflow as tf
except (ImportError, ValueError) as error:
    reason = (f"cannot load Keras, with KERAS_BACKEND="
              f"{os.environ.get('KERAS_BACKEND', 'tensorflow')}: {error}")
    if __name__ == "__main__":  # `run_program` is not reached
        say(f"data.py: error: {reason}")
        sys.exit(2)
    raise UserError(reason) from None

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # or it would take the memory that the backend needs

SHARES = (0.8, 0.1, 0.1)


# --- Split ----------------------------------------------------------------------------------------


def name_hashes(names):
    """(n,) uint64 of the names: the same on every machine, in every year."""
    sha256 = hashlib.sha256
    first = (sha256(name.encode("utf-8", "surrogateescape")).digest()[:8] for name in names)
    return np.frombuffer(b"".join(first), ">u8").astype(np.uint64)


def split(names, digests, given=None):
    """Divides photos 80/10/10 by a hash of what identifies them.

    So neither a seed nor a file that is added moves a photo from one side to the other. Files with
    the same bytes go where the first of them by name goes.

    Args:
        names: (n,) what identifies each photo.
        digests: (n,) a digest of each file's bytes.
        given: (n,) the user's own split, as this returns it, or None. It is kept; where it has no
            validation or no test photos, those of train that would be without it become them.
    Returns:
        (n,) int, index into `SPLITS`.
    """
    if given is not None:
        sides, train = given.copy(), np.flatnonzero(given == 0)
        hashed = split([names[i] for i in train], np.asarray(digests)[train])
        sides[train] = np.where(np.isin(hashed, given), 0, hashed)
        return sides
    hashes = name_hashes(names)
    _, group, sizes = np.unique(digests, return_inverse=True, return_counts=True)
    first = {}
    for i in sorted(np.flatnonzero(sizes[group] > 1).tolist(), key=names.__getitem__):
        hashes[i] = hashes[first.setdefault(group[i], i)]
    return np.searchsorted(np.cumsum(SHARES)[:2], hashes / 2.0**64, side="right")


# --- Load ----------------------------------------------------------------------------------------


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
    digests: np.ndarray
    excluded: np.ndarray

    def split_sizes(self):
        return {name: len(members) for name, members in self.splits.items()}

    def members_of(self, split):
        """The indices of a split, or of all of them for `all`."""
        if split == "all":
            return np.sort(np.concatenate(list(self.splits.values())))
        return self.splits[split]

    def digest(self):
        """What tells this data set from every other: of its classes, photos, labels and splits."""
        digest = hashlib.sha256(json.dumps([self.classes, self.names]).encode())
        for array in (self.digests, self.labels, *map(self.splits.get, SPLITS)):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

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
        UserError: unusable folder, no photo, a single class, a class without a readable photo, too
            few photos to fill every split.
    """
    found = layouts.find(data_dir, cache_dir)
    if found is None:
        raise UserError(
            f"--data-dir: expected labelled photos (train/cat.0.jpg, PetImages/Cat/0.jpg or a "
            f"folder for each class), found none under {printable(data_dir)}"
        )
    images, digests, errors = cache.images(found, image_size, Path(cache_dir))
    good = np.delete(np.arange(len(found.paths)), list(errors))
    names = [found.names[i] for i in good.tolist()]
    labels, digests = found.labels[good], digests[good]
    _check_classes(found, labels, errors)
    given = None if found.given is None else found.given[good]
    sides = split(names, digests, given)  # of all of them, so that leaving some out moves no other
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
        paths=[found.paths[i] for i in good.tolist()],
        names=names,
        splits=splits,
        skipped=[(found.paths[i], error) for i, error in errors.items()],
        root=found.root,
        digests=digests,
        excluded=np.flatnonzero(excluded),
    )


def _check_classes(found, labels, errors):
    """Raises `UserError` for a class of which no photo could be decoded."""
    for label in set(found.labels) - set(labels):
        first = np.flatnonzero(found.labels == label)[0]
        raise UserError(
            f"--data-dir: expected readable photos of every class, got none of "
            f"{printable(found.classes[label])} in {printable(found.root)}; "
            f"{printable(found.paths[first])}: {errors[first]}")


# --- Stream ---------------------------------------------------------------------------------------


def training_batches(dataset, settings, start_epoch=0, share=(0, 1)):
    """Streams augmented batches of the training photos, epoch after epoch, in a new order each.

    Indices are shuffled, not images; then come batching, reading from the cache, augmentation.
    What a batch holds depends on the seed, the epoch and the step alone, so a resumed run sees
    what it would have seen. The last, incomplete batch of an epoch is left out.

    Args:
        share: (i, n) for the i-th of n equal parts of every batch, as it is in the whole batch.
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
        images, targets = read(dataset, part(tf.sort(indices), batch_size, share))
        seed = tf.stack([settings.seed, epoch * 2**32 + step + 1])
        return augment(images, sizes[epoch], seed, settings, share), targets

    epochs = tf.data.Dataset.range(start_epoch, settings.epochs).flat_map(epoch_batches)
    # AUTOTUNE would start at 16 calls in parallel, each holding a batch.
    return epochs.map(read_and_augment, num_parallel_calls=os.cpu_count()).prefetch(4)


def evaluation_batches(dataset, members, batch_size, size=None):
    """Streams photos as they are, each once, in order: (images, targets), float32 in 0-255.

    `size` in px, by default that of the cache.
    """
    batches = tf.data.Dataset.from_tensor_slices(tf.constant(members, tf.int64)).batch(batch_size)
    read_as_is = functools.partial(read_resized, dataset, size=size)
    return batches.map(read_as_is, num_parallel_calls=os.cpu_count()).prefetch(2)


def shared_evaluation_batches(dataset, members, batch_size, size=None, share=(0, 1)):
    """As `evaluation_batches`, with a third element, weights, and a `share` of every batch.

    The last batch is as large as the others, filled up with copies of the last photo of weight 0;
    so every device has the same share of it. The others weigh so much that Keras's mean over
    rows, those copies among them, is the mean over the photos.
    """
    count, total = len(members), -(-len(members) // batch_size) * batch_size
    padded = np.pad(members, (0, total - count), mode="edge")
    weights = np.where(np.arange(total) < count, total / count, 0).astype(np.float32)
    batches = tf.data.Dataset.from_tensor_slices((padded, weights)).batch(batch_size)

    def read_as_is(indices, weights):
        images, targets = read_resized(dataset, part(indices, batch_size, share), size)
        return images, targets, part(weights, batch_size, share)

    return batches.map(read_as_is, num_parallel_calls=os.cpu_count()).prefetch(2)


def part(batch, size, share):
    """The rows of a batch of `size` that the i-th of n processes takes; `share` is (i, n)."""
    i, n = share
    return batch if n == 1 else batch[i * size // n : (i + 1) * size // n]


def read_resized(dataset, indices, size):
    """`read`, as float32, at `size` px where that is not None."""
    images, targets = read(dataset, indices)
    if size not in (None, images.shape[1]):
        images = tf.image.resize(images, (size, size), antialias=True)
    return tf.cast(images, tf.float32), targets


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


def augment(images, size, seed, settings, share=(0, 1)):
    """Random resized crop, mirror image, brightness, contrast, and an erased square.

    Args:
        images: uint8 (batch, height, width, 3).
        size: height and width in px of the result, an int tensor.
        seed: (2,) int64; the same seed gives the same result.
        settings: `crop_area`, `aspect`, `brightness` and `erase` of it.
        share: (i, n) where the images are the i-th of n equal parts of a batch; they get what
            they would get in the whole batch.
    Returns:
        float32 (batch, size, size, 3) in 0-255.
    """
    batch = tf.shape(images)[0]
    i, n = share
    draws = tf.random.stateless_uniform((10, n * batch), seed)  # for the whole batch
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
    contrast = 1 + (2 * draws[5] - 1) * settings.brightness
    shift = (2 * draws[6] - 1) * settings.brightness * 127.5
    reach = settings.erase * draws[7] / 2
    row, column = draws[8], draws[9]
    if n > 1:  # not sooner: the last digit depends on how many numbers are computed at once
        boxes, contrast, shift, reach, row, column = (
            x[i * batch : (i + 1) * batch] for x in (boxes, contrast, shift, reach, row, column))
    images = tf.cast(images, tf.float32)
    # Where a crop shrinks a lot, average first: bilinear sampling would pick single pixels.
    images = tf.cond(
        2 * size <= tf.shape(images)[1],
        lambda: tf.nn.avg_pool2d(images, 2, 2, "VALID"),
        lambda: images,
    )
    images = tf.image.crop_and_resize(images, boxes, tf.range(batch), [size, size])
    contrast, shift = contrast[:, None, None, None], shift[:, None, None, None]
    images = tf.clip_by_value((images - 127.5) * contrast + 127.5 + shift, 0, 255)
    # Cutout (DeVries and Taylor 2017): the network must not rely on one part of the animal.
    position = (tf.range(size, dtype=tf.float32) + 0.5) / tf.cast(size, tf.float32)
    rows = tf.abs(position - row[:, None]) < reach[:, None]
    columns = tf.repeat(tf.abs(position - column[:, None]) < reach[:, None], 3, axis=1)
    # Three values a pixel side by side: a third of the time of a mask that broadcasts over them.
    erased = rows[:, :, None] & columns[:, None, :]
    images = tf.where(erased, 127.5, tf.reshape(images, (batch, size, 3 * size)))
    return tf.reshape(images, (batch, size, size, 3))


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

    from catdog.scores import inspect as inspection
    from catdog.runs import run as runs

    if args.output:
        files.check_new(args.output)
        files.check_outside(args.output, args.data_dir)
    classifier = None
    if args.suspects:
        runs.read_config(args.suspects, "--suspects")
        classifier = runs.Classifier(args.suspects)
    size = classifier.image_size if classifier else RECIPES["full"].score_size
    dataset = load(args.data_dir, size, args.cache_dir, exclusion.read(args.exclude))
    if classifier and dataset.classes != classifier.classes:
        raise UserError(f"--suspects: expected a model of {some_names(dataset.classes)}, "
                        f"got one of {some_names(classifier.classes)}")
    inspection.inspect(dataset, classifier, args.output)
    return 0


if __name__ == "__main__":
    terminal.run(main)
