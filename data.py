"""The data set: loads, splits, streams and augments the photos.

    python data.py                   number of photos per class and split, sizes, copies
    python data.py --output DIR      and a list of all of them

Arrays of photos are uint8, (n, size, size, 3), RGB, 0-255. Labels are int, indices into `classes`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog import cli
from catdog.backend import tf
from catdog.errors import UserError
from catdog.files import printable, some_names
from catdog.photos import alike, cache, download, drawings, index
from catdog.photos import labels as label_files
from catdog.photos.found import SPLITS
from catdog.training.recipe import RECIPES
from catdog.training.settings import Settings

SHARES = (0.8, 0.1, 0.1)  # of training, validation and test photos
NO_PHOTOS = """\
You can:
  1. kaggle competitions download -c dogs-vs-cats -p tmp, and unzip train.zip there
  2. put your own photos into one folder per class: tmp/cats/*.jpg, tmp/dogs/*.jpg
  3. python train.py --demo trains on drawings and needs no photos"""


# --- Split ----------------------------------------------------------------------------------------


def name_hashes(names: Sequence[str]) -> np.ndarray:
    """Return (n,) uint64 hashes of the names: the same on every machine, in every year."""
    sha256 = hashlib.sha256
    first = (sha256(name.encode("utf-8", "surrogateescape")).digest()[:8] for name in names)
    return np.frombuffer(b"".join(first), ">u8").astype(np.uint64)


def split(
    names: Sequence[str], digests: Sequence, given_split: np.ndarray | None = None, fold: int = 0
) -> np.ndarray:
    """Divide photos 80/10/10 by a hash of their names.

    A photo's split does not depend on the seed or on other photos, except identical ones: files
    with the same bytes go where the first of them by name goes.

    Args:
        names: (n,) what identifies each photo, such as `cat.7`.
        digests: (n,) a digest of each file's bytes.
        given_split: (n,) the user's own split, as this function returns it, or None. It is kept;
            if it has no validation or no test photos, they are taken from its training photos.
        fold: 0 to 9. Shifts the split by this many tenths, so each photo is in the test split of
            exactly one of the ten folds.
    Returns:
        (n,) int, index into `SPLITS`.
    """
    if given_split is not None:
        assigned, train = given_split.copy(), np.flatnonzero(given_split == 0)
        hashed = split([names[i] for i in train], np.asarray(digests)[train], fold=fold)
        # A split that the user provided keeps exactly its photos.
        assigned[train] = np.where(np.isin(hashed, given_split), 0, hashed)
        return assigned
    hashes = name_hashes(names)
    _, group, sizes = np.unique(digests, return_inverse=True, return_counts=True)
    first_of_group = {}
    # Identical files share the hash of the first name.
    for i in sorted(np.flatnonzero(sizes[group] > 1).tolist(), key=names.__getitem__):
        hashes[i] = hashes[first_of_group.setdefault(group[i], i)]
    position = (hashes / 2.0**64 + fold / 10) % 1  # in [0, 1), shifted by `fold` tenths
    return np.searchsorted(np.cumsum(SHARES)[:2], position, side="right")


# --- Load -----------------------------------------------------------------------------------------


def read_lists(args: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Return the names of --exclude and the labels of --relabel; both may be empty."""
    with cli.blame("--exclude"):
        exclude = label_files.read_names(args.exclude)
    with cli.blame("--relabel"):
        return exclude, label_files.read_relabels(args.relabel)


@dataclasses.dataclass
class Dataset:
    """Decoded photos with their labels and splits."""

    images: np.ndarray  # uint8 (n, size, size, 3), memory-mapped
    labels: np.ndarray  # int (n,), index into `classes`
    classes: list[str]
    paths: list[str]  # (n,) below `root`
    names: list[str]  # (n,) what identifies each photo, such as `cat.7`
    splits: dict[str, np.ndarray]  # the indices of each split, without the excluded photos
    skipped: list[tuple[str, str]]  # path and reason of each file that could not be decoded
    root: Path
    digests: np.ndarray  # (n,) of each file's bytes
    excluded: np.ndarray  # the indices of the photos that are left out

    def split_sizes(self) -> dict[str, int]:
        """Return the number of photos of each split."""
        return {name: len(members) for name, members in self.splits.items()}

    def members_of(self, split: str) -> np.ndarray:
        """Return the indices of a split, or of all splits together for `all`."""
        if split == "all":
            return np.sort(np.concatenate(list(self.splits.values())))
        return self.splits[split]

    def class_counts(self, split: str) -> np.ndarray:
        """Return (classes,) int, the number of photos of each class in a split."""
        return np.bincount(self.labels[self.splits[split]], minlength=len(self.classes))

    def class_weights(self) -> dict[int, float]:
        """Return the loss weight of each class, inversely proportional to its training photos."""
        from sklearn.utils.class_weight import compute_class_weight

        labels = self.labels[self.splits["train"]]
        weights = compute_class_weight("balanced", classes=np.arange(len(self.classes)), y=labels)
        return dict(enumerate(weights.tolist()))

    def digest(self) -> str:
        """Return a digest of everything that a run learns from: classes, photos, labels, splits."""
        digest = hashlib.sha256(json.dumps([self.classes, self.names]).encode())
        for array in (self.digests, self.labels, *map(self.splits.get, SPLITS)):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def batches(self, members: np.ndarray, size: int = 64) -> Iterator[np.ndarray]:
        """Yield the images of `members` in order, uint8 (at most `size`, height, width, 3)."""
        for start in range(0, len(members), size):
            yield self.images[members[start : start + size]]


def load(
    data_dir: str,
    image_size: int,
    cache_dir: str,
    exclude: Sequence[str] = (),
    fold: int = 0,
    relabel: dict[str, str] | None = None,
) -> Dataset:
    """Find, decode (once, into a cache on disk) and split the photos under `data_dir`.

    Args:
        data_dir: folder of labelled photos, in one of the layouts of `index.find`.
        image_size: height and width of the decoded photos in pixels.
        cache_dir: folder for the cache; it is made if it is missing.
        exclude: names of photos to leave out, see `labels.read_names`.
        fold: 0 to 9, see `split`.
        relabel: new labels of photos by name, see `labels.read_relabels`.
    Raises:
        UserError: a class without readable photos, or too few photos to fill every split.
    """
    with cli.blame("--data-dir"):
        found = index.find(data_dir, cache_dir)
        if found is None:
            raise UserError(
                "expected labelled photos (train/cat.0.jpg, PetImages/Cat/0.jpg or one folder per "
                f"class), found none under {printable(data_dir)}"
            )
    with cli.blame("--relabel"):
        found = label_files.apply_relabels(found, data_dir, relabel or {})
    with cli.blame("--cache-dir"):
        images, digests, errors = cache.images(
            found, image_size, Path(cache_dir), cli.progress("decoding", " photos")
        )
    with cli.blame("--data-dir"):
        _check_classes(found, errors)
    good = np.delete(np.arange(len(found.paths)), list(errors))
    names = [found.names[i] for i in good.tolist()]
    labels, digests = found.labels[good], digests[good]
    given_split = None if found.given is None else found.given[good]
    # Split before any photo is left out, so that leaving one out moves no other.
    assigned = split(names, digests, given_split, fold)
    with cli.blame("--exclude"):
        named = label_files.matching(found, data_dir, exclude)
        excluded = np.isin(good, [number for number, _ in named])
    splits = {name: np.flatnonzero((assigned == i) & ~excluded) for i, name in enumerate(SPLITS)}
    dataset = Dataset(
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
    with cli.blame("--data-dir"):
        _check_splits(dataset)
    return dataset


def _check_classes(found: index.Found, errors: dict[int, str]) -> None:
    """Raise UserError if a class has no photo that could be decoded."""
    readable = np.delete(found.labels, list(errors))
    for label in set(found.labels) - set(readable):
        first = np.flatnonzero(found.labels == label)[0]
        raise UserError(
            f"expected readable photos of every class, got none of "
            f"{printable(found.classes[label])} in {printable(found.root)}; "
            f"{printable(found.paths[first])}: {errors[first]}"
        )


def _check_splits(dataset: Dataset) -> None:
    """Raise UserError if a split is empty, or the training split has no photo of a class."""
    if 0 in dataset.split_sizes().values() or 0 in dataset.class_counts("train"):
        sizes = ", ".join(f"{name} {count}" for name, count in dataset.split_sizes().items())
        raise UserError(
            f"expected enough photos of every class for training, validation and test, got "
            f"{len(dataset.names)} photos in {printable(dataset.root)} ({sizes})"
        )


def load_for(config: dict, args: argparse.Namespace) -> Dataset:
    """Load photos for the network of a run: at its image size, in its split.

    Args:
        config: of the run.
        args: with the arguments of `cli.data_arguments`.
    Raises:
        UserError: they are not of its classes.
    """
    exclude, relabel = read_lists(args)
    fold = Settings.from_dict(config["settings"]).fold
    size, classes = config["score_size"], config["classes"]
    dataset = load(args.data_dir, size, args.cache_dir, exclude, fold, relabel)
    if dataset.classes != classes:
        raise UserError(
            f"expected photos of the classes of the network, {some_names(classes)}, got "
            f"{some_names(dataset.classes)}",
            "--data-dir",
        )
    return dataset


def identities(dataset: Dataset, members: np.ndarray) -> np.ndarray:
    """Return (m, 2) uint64, hashes of the names and of the looks of the photos `members`."""
    looks = [alike.look_hashes(batch) for batch in dataset.batches(members)]
    return np.stack(
        [name_hashes([dataset.names[i] for i in members]), np.concatenate(looks)], axis=1
    )


def load_or_make(
    data_dir: str, cache_dir: str, settings: Settings, exclude: list, relabel: dict
) -> Dataset:
    """Load the photos to train on; print which are skipped.

    Draws those of --demo first, and downloads the public copy of Dogs vs. Cats if tmp/ holds none.
    Recipe, image size and fold are those of the settings.
    """
    if settings.recipe == "demo":
        cli.say("Drawing cats and dogs. What follows says nothing about photos.")
        with cli.blame("--demo"):
            drawings.make_demo(data_dir, progress=cli.progress("drawing", " pictures"))
    elif data_dir == "tmp":
        download_if_empty(data_dir, cache_dir)
    dataset = load(data_dir, settings.score_size, cache_dir, exclude, settings.fold, relabel)
    for path, reason in dataset.skipped[:10]:
        cli.say(f"skipped {printable(path)}: {reason}")
    if len(dataset.skipped) > 10:
        cli.say(f"skipped {len(dataset.skipped) - 10} more")
    return dataset


def download_if_empty(folder: str, cache_dir: str) -> None:
    """Download the public copy of the photos if the folder holds no labelled photos."""
    Path(folder).mkdir(exist_ok=True)
    if index.find(folder, cache_dir) is not None:
        return
    cli.say("No labelled photos under tmp/. Downloading the public copy of Dogs vs. Cats, 825 MB.")
    try:
        download.download_photos(folder, progress=cli.progress("downloading", "B"))
    except UserError as error:
        raise UserError(f"cannot download the photos: {error}\n{NO_PHOTOS}") from None


# --- Stream ---------------------------------------------------------------------------------------


def training_batches(dataset: Dataset, settings: Settings, epoch: int) -> tf.data.Dataset:
    """Return the training photos of one epoch in shuffled, augmented batches.

    Indices are shuffled, not images; then come batching, reading from the cache, augmentation.
    Each batch depends only on seed, epoch and step, so a resumed run sees the same batches. The
    last, incomplete batch of an epoch is left out.

    Args:
        epoch: counted from 0.
    Returns:
        A `tf.data.Dataset` of (images, targets): float32 (batch, size, size, 3) in 0-255, where
        size is that of the epoch, and what `targets_of` returns.
    """
    members = dataset.splits["train"]
    order = np.random.default_rng([settings.seed, epoch]).permutation(members)
    size = settings.image_sizes()[epoch]

    def read_and_augment(step, indices):
        images, targets = read(dataset, indices)
        seed = tf.stack([settings.seed, epoch * 2**32 + step + 1])
        return hide_size(augment(images, size, seed, settings)), targets

    batches = tf.data.Dataset.from_tensor_slices(order).batch(
        min(settings.batch_size, len(members)), drop_remainder=True
    )
    # AUTOTUNE would start at 16 calls in parallel, each holding a batch.
    return batches.enumerate().map(read_and_augment, num_parallel_calls=os.cpu_count()).prefetch(4)


def evaluation_batches(
    dataset: Dataset, members: np.ndarray, batch_size: int, size: int | None = None
) -> tf.data.Dataset:
    """Return photos without augmentation, each once and in order, in batches of equal size.

    Every device then has an equal share. The last batch is padded with copies that have weight 0.
    The other weights are scaled so that Keras's mean over the padded rows equals the mean over the
    photos.

    Args:
        members: (m,) indices of photos.
        size: height and width in pixels; by default that of the cache.
    Returns:
        A `tf.data.Dataset` of (images, targets, weights): float32 (batch, size, size, 3) in 0-255,
        the targets returned by `targets_of`, float32 (batch,).
    """
    count, total = len(members), -(-len(members) // batch_size) * batch_size
    padded = np.pad(members, (0, total - count), mode="edge")
    weights = np.where(np.arange(total) < count, total / count, 0).astype(np.float32)

    def read_as_is(indices, weights):
        images, targets = read(dataset, indices)
        if size not in (None, images.shape[1]):
            images = tf.image.resize(images, (size, size), antialias=True)
        return hide_size(tf.cast(images, tf.float32)), targets, weights

    batches = tf.data.Dataset.from_tensor_slices((padded, weights))
    batches = batches.batch(batch_size, drop_remainder=True)  # so that the batch size is known
    return batches.map(read_as_is, num_parallel_calls=os.cpu_count()).prefetch(2)


def read(dataset: Dataset, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Read the photos `indices` from the cache, sorted by index for sequential reads.

    Returns:
        uint8 images (batch, height, width, 3) and the targets returned by `targets_of`.
    """
    indices = tf.sort(indices)
    images = tf.numpy_function(lambda i: dataset.images[i], [indices], tf.uint8, stateful=False)
    images = tf.ensure_shape(images, (indices.shape[0], *dataset.images.shape[1:]))
    labels = tf.gather(tf.constant(dataset.labels), indices)
    return images, targets_of(labels, len(dataset.classes))


def hide_size(images: tf.Tensor) -> tf.Tensor:
    """Return the images with height and width unknown to TensorFlow.

    It then traces the training step once rather than once per image size.
    """
    return tf.compat.v1.placeholder_with_default(images, (images.shape[0], None, None, 3))


def targets_of(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Return float32 (batch, 1) of 0 and 1 for two classes, one-hot (batch, classes) for more."""
    if classes == 2:
        return tf.cast(labels[:, None], tf.float32)
    return tf.one_hot(labels, classes)


# --- Augment --------------------------------------------------------------------------------------


def augment(images: tf.Tensor, size: int, seed: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Crop, mirror, turn, recolour, erase and corrupt photos at random.

    Args:
        images: uint8 (batch, height, width, 3).
        seed: (2,) int64; the same seed gives the same result.
        settings: how strongly; see `recipe.Settings`.
    Returns:
        float32 (batch, size, size, 3) in 0-255.
    """
    # Ten uniform random numbers per photo: 5 for crop, 2 for recolour, 3 for erase.
    draws = tf.random.stateless_uniform((10, tf.shape(images)[0]), seed)
    images = tf.cast(images, tf.float32)
    if 2 * size <= images.shape[1]:
        # Average before a crop shrinks a lot: bilinear sampling would pick single pixels.
        images = tf.nn.avg_pool2d(images, 2, 2, "VALID")
    images = crop(images, size, draws[:5], settings, seed)
    images = recolour(images, draws[5:7], settings.brightness)
    images = erase(images, draws[7:], settings.erase)
    if settings.corruption:
        images = corrupt(images, seed, settings.corruption)
    return images


def crop(
    images: tf.Tensor, size: int, draws: tf.Tensor, settings: Settings, seed: tf.Tensor
) -> tf.Tensor:
    """Crop a random part of each photo; mirror half of them, and rotate some."""
    draw_area, draw_aspect, draw_top, draw_left, draw_mirror = tf.unstack(draws, 5)
    area = settings.crop_area + draw_area * (1 - settings.crop_area)
    aspect = tf.exp((2 * draw_aspect - 1) * settings.aspect)  # width over height
    height = tf.minimum(tf.sqrt(area / aspect), 1)
    width = tf.minimum(tf.sqrt(area * aspect), 1)
    top = draw_top * (1 - height)
    left = draw_left * (1 - width)
    right = left + width
    mirrored = draw_mirror < 0.5
    boxes = tf.stack(
        [top, tf.where(mirrored, right, left), top + height, tf.where(mirrored, left, right)], 1
    )
    if settings.rotation:
        return crop_and_turn(images, boxes, size, seed, settings.rotation)
    return tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), [size, size])


def crop_and_turn(
    images: tf.Tensor, boxes: tf.Tensor, size: int, seed: tf.Tensor, fraction: float
) -> tf.Tensor:
    """Crop as `tf.image.crop_and_resize`, and rotate a `fraction` of the crops by any angle."""
    draw_turned, draw_angle = tf.unstack(
        tf.random.stateless_uniform((2, tf.shape(images)[0]), seed + [1, 0]), 2
    )
    side = tf.cast(tf.shape(images)[1:3], tf.float32) - 1
    corner, opposite = boxes[:, :2] * side, boxes[:, 2:] * side  # (row, column)
    centre, scale = (corner + opposite) / 2, (opposite - corner) / (size - 1)
    angle = tf.where(draw_turned < fraction, (2 * draw_angle - 1) * np.pi, 0.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Output pixel (x, y) is sampled from input position (a0 x + a1 y + a2, b0 x + b1 y + b2).
    a0, a1 = scale[:, 1] * cos, -scale[:, 1] * sin
    b0, b1 = scale[:, 0] * sin, scale[:, 0] * cos
    a2 = centre[:, 1] - (a0 + a1) * (size - 1) / 2
    b2 = centre[:, 0] - (b0 + b1) * (size - 1) / 2
    zero = tf.zeros_like(a0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], 1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def recolour(images: tf.Tensor, draws: tf.Tensor, strength: float) -> tf.Tensor:
    """Change contrast and brightness by up to `strength`, as a fraction of the value range."""
    draw_contrast, draw_shift = tf.unstack(2 * draws[:, :, None, None, None] - 1, 2)
    contrast, shift = 1 + draw_contrast * strength, draw_shift * strength * 127.5
    return tf.clip_by_value((images - 127.5) * contrast + 127.5 + shift, 0, 255)


def erase(images: tf.Tensor, draws: tf.Tensor, largest: float) -> tf.Tensor:
    """Make a square grey, with sides of up to `largest`, as a fraction of the photo's sides.

    The network must not rely on one part of the animal (cutout, DeVries and Taylor 2017).
    """
    draw_side, draw_row, draw_column = tf.unstack(draws, 3)
    reach = largest * draw_side / 2
    size = images.shape[1]
    position = (tf.range(size, dtype=tf.float32) + 0.5) / size
    rows = tf.abs(position - draw_row[:, None]) < reach[:, None]
    columns = tf.repeat(tf.abs(position - draw_column[:, None]) < reach[:, None], 3, axis=1)
    # With three values per pixel side by side: a third of the time of a mask that broadcasts.
    flat = tf.reshape(images, (-1, size, 3 * size))
    return tf.reshape(
        tf.where(rows[:, :, None] & columns[:, None, :], 127.5, flat), (-1, size, size, 3)
    )


def corrupt(images: tf.Tensor, seed: tf.Tensor, fraction: float) -> tf.Tensor:
    """Make a `fraction` of the photos grey, dark, noisy or blurred, or several of these."""
    batch, size = tf.shape(images)[0], images.shape[1]
    count = tf.cast(tf.cast(batch, tf.float32) * fraction, tf.int32)
    chosen = tf.argsort(tf.random.stateless_uniform([batch], seed + [2, 0]))[:count, None]
    some = tf.gather_nd(images, chosen)
    draw_grey, draw_dark, draw_noise, draw_darkness = tf.unstack(
        tf.random.stateless_uniform((4, count, 1, 1, 1), seed + [3, 0]), 4
    )
    some = tf.where(draw_grey < 1 / 3, tf.reduce_mean(some, -1, keepdims=True), some)
    dark = tf.abs(draw_dark - 0.5) < 1 / 6  # a third, down to a quarter of the brightness
    some = tf.where(dark, some * tf.exp(-1.4 * draw_darkness), some)
    sigma = 120 * tf.nn.relu(draw_noise - 2 / 3)  # a third, up to 40
    some += sigma * tf.random.stateless_normal(tf.shape(some), seed + [4, 0])
    some = tf.clip_by_value(some, 0, 255)
    # Half of them small and large again, by a factor of 2 to 8.
    factor = 2 * tf.exp(tf.random.stateless_uniform([], seed + [5, 0]) * np.log(4))
    small = tf.maximum(12, tf.cast(size / factor, tf.int32))
    shrunk = tf.image.resize(some[: count // 2], tf.stack([small, small]), antialias=True)
    some = tf.concat([tf.image.resize(shrunk, [size, size]), some[count // 2 :]], 0)
    some = tf.clip_by_value(some, 0, 255)  # resizing rounds
    return tf.tensor_scatter_nd_update(images, chosen, some)


# --- What there is --------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Summarize the photos."""
    parser = argparse.ArgumentParser(
        description="Summarize the photos: number per class and split. No file is changed.",
        parents=[cli.data_arguments()],
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="new folder for a list of all photos (CSV)"
    )
    parser.add_argument("--suspects", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.suspects:
        parser.error("argument --suspects: use evaluate.py --model RUN ... --suspects DIR")

    from catdog.scores import inspect

    cli.check_output(args.output, args.data_dir)
    exclude, relabel = read_lists(args)
    size = RECIPES["full"].score_size
    dataset = load(args.data_dir, size, args.cache_dir, exclude, relabel=relabel)
    text, rows = inspect.overview(dataset)
    print(text)
    if args.output:
        with cli.blame("--output"):
            inspect.write(args.output, rows)
        cli.say(f"All of them:  {printable(args.output / 'photos.csv')}")
    return 0


if __name__ == "__main__":
    cli.run(main)
