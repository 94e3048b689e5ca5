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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from catdog import cli, files
from catdog.backend import keras
from catdog.errors import UserError
from catdog.files import printable, quoted
from catdog.photos import alike, cache, index
from catdog.photos import labels as label_files
from catdog.photos.found import SPLITS
from catdog.runs import lines
from catdog.training import devices, recipe
from catdog.training.recipe import RECIPES
from catdog.training.settings import Settings

SHARES = (0.8, 0.1, 0.1)  # of training, validation and test photos
SMALL_CLASS = 500  # photos of a class, below which it is divided exactly
FEW, FEW_OF_CLASS = 50, 10  # test photos, below which a score says little


# --- Split ----------------------------------------------------------------------------------------


def name_hashes(names: Sequence[str]) -> np.ndarray:
    """Return (n,) uint64 hashes of the names: the same on every machine, in every year."""
    sha256 = hashlib.sha256
    first = (sha256(name.encode("utf-8", "surrogateescape")).digest()[:8] for name in names)
    return np.frombuffer(b"".join(first), ">u8").astype(np.uint64)


def split(
    names: Sequence[str],
    digests: Sequence,
    labels: np.ndarray | None = None,
    given_split: np.ndarray | None = None,
    fold: int = 0,
) -> np.ndarray:
    """Divide photos 80/10/10 by a hash of their names.

    A photo's split does not depend on the seed or on other photos, except identical ones: files
    with the same bytes go where the first of them by name goes. A class of fewer than `SMALL_CLASS`
    photos is divided exactly, in the order of the hashes, so an added photo may move others of it.

    Args:
        names: (n,) what identifies each photo, such as `cat.7`.
        digests: (n,) a digest of each file's bytes.
        labels: (n,) int, the class of each photo; None: no class is small.
        given_split: (n,) the user's own split, as this function returns it, or None. It is kept;
            if it has no validation or no test photos, they are taken from its training photos.
        fold: 0 to 9. Shifts the split by this many tenths, so each photo is in the test split of
            exactly one of the ten folds.
    Returns:
        (n,) int, index into `SPLITS`.
    """
    if given_split is not None:
        assigned, train = given_split.copy(), np.flatnonzero(given_split == 0)
        some = [names[i] for i in train], np.asarray(digests)[train]
        hashed = split(*some, None if labels is None else labels[train], fold=fold)
        # A split that the user provided keeps exactly its photos.
        assigned[train] = np.where(np.isin(hashed, given_split), 0, hashed)
        return assigned
    hashes = name_hashes(names)
    _, group, sizes = np.unique(digests, return_inverse=True, return_counts=True)
    leader, first_of_group = np.arange(len(hashes)), {}  # of identical files, the first by name
    for i in sorted(np.flatnonzero(sizes[group] > 1).tolist(), key=names.__getitem__):
        leader[i] = first_of_group.setdefault(group[i], i)
    position = hashes / 2.0**64  # in [0, 1)
    counts = [] if labels is None else np.bincount(labels)
    for label in np.flatnonzero(np.less(counts, SMALL_CLASS) & np.greater(counts, 0)):
        members = np.flatnonzero((labels == label) & (leader == np.arange(len(leader))))
        members = members[np.argsort(hashes[members], kind="stable")]
        followers = sizes[group[members]]
        # Ranks begin anywhere in the first step, or small classes would all round the same way.
        start = int(hashes[members].min()) % 2**32 / 2**32 if len(members) > 1 else 0
        position[members] = (followers.cumsum() - followers + start) / followers.sum()
    position = (position[leader] + fold / 10) % 1  # shifted by `fold` tenths
    return np.searchsorted(np.cumsum(SHARES)[:2], position, side="right")


# --- Load -----------------------------------------------------------------------------------------


def read_lists(args: argparse.Namespace) -> dict:
    """Return the arguments `exclude` and `relabel` of `load`, from --exclude and --relabel."""
    with cli.blame("--exclude"):
        exclude = label_files.read_names(args.exclude)
    with cli.blame("--relabel"):
        return {"exclude": exclude, "relabel": label_files.read_relabels(args.relabel)}


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
    skipped_labels: np.ndarray  # int, of each of them
    root: Path
    digests: np.ndarray  # (n,) of each file's bytes
    excluded: np.ndarray  # the indices of the photos that are left out
    summary: str  # one line: where labels and split come from
    others: dict[str, int]  # files that are no photos: ending, number
    given: bool  # whether the user's folders are the split

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

    def check(self) -> None:
        """Raise UserError unless a network can be trained: photos of all classes in all splits."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        for label in np.setdiff1d(self.skipped_labels, self.labels):
            its_own = np.flatnonzero(self.skipped_labels == label)
            path, reason = self.skipped[its_own[0]]
            raise UserError(
                f"expected readable photos of every class, got none of "
                f"{printable(self.classes[label])} in {printable(self.root)} ({len(its_own):,} "
                f"files); {printable(path)}: {reason}"
            )
        for name in self.classes:
            if name.casefold() in lines.RESERVED:
                raise UserError(
                    f"expected another name of the class {name}, which predict.py says of photos "
                    f"that show none of the classes; rename its folder, for example to no_{name}"
                )
        if 0 in self.split_sizes().values() or 0 in self.class_counts("train"):
            sizes = ", ".join(f"{name} {count}" for name, count in self.split_sizes().items())
            label = self.class_counts("train").argmin()
            raise UserError(
                f"expected enough photos of every class for training, validation and test, got "
                f"{len(self.names)} photos in {printable(self.root)} ({sizes}), of which "
                f"{counts[label]} of {printable(self.classes[label])}"
            )

    def warnings(self) -> list[str]:
        """Return what makes the score on the test split say little, and what helps."""
        found, test, counts = [], self.splits["test"], self.class_counts("test")
        if len(test) < FEW or counts.min() < FEW_OF_CLASS:
            few = f"Warning: only {len(test):,} test photos, the fewest of "
            few += f"{printable(self.classes[counts.argmin()])} ({counts.min()}): the score will "
            help = f"To score all:  python train.py --data-dir {quoted(self.root)} --folds 5"
            found += [few + "say little.", *([] if self.given else [help])]
        copies = alike.have_copies(self.images, test, self.splits["train"]).sum()
        if copies >= max(1, 0.01 * len(test)):
            found.append(
                f"Warning: {copies:,} of {len(test):,} test photos have a copy in training, as it "
                "is, mirrored or brighter: their score will be too good.\n         For a list: "
                f"python data.py --data-dir {quoted(self.root)} --output copies; then "
                "--exclude copies/copies.txt"
            )
        return found

    def digest(self) -> str:
        """Return a digest of everything that a run learns from: classes, photos, labels, splits."""
        digest = hashlib.sha256(json.dumps([self.classes, self.names]).encode())
        for array in (self.digests, self.labels, *map(self.splits.get, SPLITS)):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def identities(self, members: np.ndarray) -> np.ndarray:
        """Return (m, 2) uint64, hashes of the names and of the looks of the photos `members`."""
        looks = [np.empty(0, np.uint64), *map(alike.look_hashes, self.batches(members))]
        names = name_hashes([self.names[i] for i in members])
        return np.stack([names, np.concatenate(looks)], axis=1)

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
    classes: Sequence[str] = (),
    check: bool = True,
) -> Dataset:
    """Find, decode (once, into a cache on disk) and split the photos under `data_dir`.

    Args:
        data_dir: folder of labelled photos, in one of the layouts of `index.find`.
        image_size: height and width of the decoded photos in pixels.
        cache_dir: folder for the cache; it is made if it is missing.
        exclude: names of photos to leave out, see `labels.read_names`.
        fold: 0 to 9, see `split`.
        relabel: new labels of photos by name, see `labels.read_relabels`.
        classes: of the network that is to score the photos, see `index.find`.
        check: whether to raise UserError for photos that no network can be trained on.
    Raises:
        UserError: see `index.find`, `cache.images` and `Dataset.check`.
    """
    with cli.blame("--data-dir"):
        found = index.find(data_dir, cache_dir, classes)
        if found is None:
            raise UserError(index.none_found(data_dir))
    with cli.blame("--relabel"):
        relabelled = label_files.apply_relabels(found, data_dir, relabel or {})
    with cli.blame("--cache-dir"):
        images, digests, errors = cache.images(
            found, image_size, Path(cache_dir), cli.progress("decoding", " photos")
        )
    good = np.delete(np.arange(len(found.paths)), list(errors))
    names = [found.names[i] for i in good.tolist()]
    digests, given_split = digests[good], None if found.given is None else found.given[good]
    # Split before any photo is left out or gets a new label, so that this moves no other.
    assigned = split(names, digests, found.labels[good], given_split, fold)
    with cli.blame("--exclude"):
        named = label_files.matching(found, data_dir, exclude)
        excluded = np.isin(good, [number for number, _ in named])
    splits = {name: np.flatnonzero((assigned == i) & ~excluded) for i, name in enumerate(SPLITS)}
    dataset = Dataset(
        images=images,
        labels=relabelled.labels[good],
        classes=found.classes,
        paths=[found.paths[i] for i in good.tolist()],
        names=names,
        splits=splits,
        skipped=[(found.paths[i], error) for i, error in errors.items()],
        skipped_labels=relabelled.labels[list(errors)],
        root=found.root,
        digests=digests,
        excluded=np.flatnonzero(excluded),
        summary=found.summary,
        others=found.others,
        given=found.given is not None,
    )
    if check:
        with cli.blame("--data-dir"):
            dataset.check()
    return dataset


def load_for(config: dict, args: argparse.Namespace) -> Dataset:
    """Load photos for the network of a run: at its image size, in its split.

    Args:
        config: of the run.
        args: with the arguments of `cli.data_arguments`.
    Raises:
        UserError: they are not of its classes. Some of these may have no photos.
    """
    return load(
        args.data_dir,
        config["score_size"],
        args.cache_dir,
        **read_lists(args),
        fold=Settings.from_dict(config["settings"]).fold,
        classes=config["classes"],
        check=False,
    )


# --- Stream: the host says which photos -----------------------------------------------------------

# The columns of `numbers` in a batch: what is drawn for each photo, beside its positions.
CONTRAST, SHIFT, ANGLE, ROW, COLUMN, REACH, GREY, DARK, NOISE, SMALL = range(10)


def training_batches(dataset: Dataset, settings: Settings, epoch: int) -> keras.utils.PyDataset:
    """Return the training photos of one epoch in shuffled batches, with what `augment` needs.

    Each batch depends only on seed, epoch and step, so a resumed run sees the same batches. The
    last, incomplete batch of an epoch is left out.

    Args:
        epoch: counted from 0.
    Returns:
        Batches of (inputs, targets). The inputs are NumPy arrays: `photos`, uint8 (batch, height,
        width, 3), and those of `draw`. The targets are what `targets_of` returns.
    """
    order = np.random.default_rng([settings.seed, epoch]).permutation(dataset.splits["train"])
    batch_size, size = min(settings.batch_size, len(order)), settings.image_sizes()[epoch]

    def batch(step):
        rng = np.random.default_rng([settings.seed, epoch, step + 1])
        drawn = draw(rng, batch_size, size, dataset.images.shape[1], settings, epoch)
        return read(dataset, order[step * batch_size : (step + 1) * batch_size], drawn)

    return stream(batch, len(order) // batch_size)


def evaluation_batches(
    dataset: Dataset, members: np.ndarray, batch_size: int, size: int
) -> keras.utils.PyDataset:
    """Return photos as they are, each once and in order, in batches of equal size.

    Every device then has an equal share. The last batch is filled up with copies of weight 0.

    Args:
        members: (m,) indices of photos.
        size: height and width in pixels at which they are sampled.
    Returns:
        Batches of (inputs, targets, weights): those of `training_batches` with evenly spaced
        positions and no numbers, and float32 (batch,).
    """
    steps = -(-len(members) // batch_size)
    padded = np.pad(members, (0, steps * batch_size - len(members)), mode="edge")
    weights = (np.arange(len(padded)) < len(members)).astype(np.float32)
    whole = positions(np.zeros(batch_size), np.ones(batch_size), size, dataset.images.shape[1])

    def batch(step):
        part = slice(step * batch_size, (step + 1) * batch_size)
        return read(dataset, padded[part], {"rows": whole, "columns": whole}, weights[part])

    return stream(batch, steps)


def stream(batch: Callable[[int], tuple], steps: int) -> keras.utils.PyDataset:
    """Return the batches of all steps as Keras takes them, whatever its backend."""

    class Stream(keras.utils.PyDataset):  # here, as importing this file must not load Keras
        def __len__(self):
            return steps

        def __getitem__(self, step):
            return batch(step)

    return Stream()


def read(dataset: Dataset, members: np.ndarray, inputs: dict, *weights: np.ndarray) -> tuple:
    """Return a batch; of several processes, each reads its own share of it."""
    own = devices.share(len(members))
    inputs = {"photos": dataset.images[members[own]]} | {k: v[own] for k, v in inputs.items()}
    targets = targets_of(dataset.labels[members[own]], len(dataset.classes))
    return inputs, targets, *(each[own] for each in weights)


def targets_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return float32 (batch, 1) of 0 and 1 for two classes, one-hot (batch, classes) for more."""
    if classes == 2:
        return labels[:, None].astype(np.float32)
    return np.eye(classes, dtype=np.float32)[labels]


def positions(start: np.ndarray, length: np.ndarray, size: int, pixels: int) -> np.ndarray:
    """Return where to sample an axis of each photo: float32 (batch, size), in pixels.

    Args:
        start, length: (batch,), the part of the axis, in shares of it. A negative length goes
            backwards: a mirror image.
        size: the number of positions, which are evenly spaced.
        pixels: the length of the axis.
    """
    centres = (np.arange(size) + 0.5) / size
    return ((start[:, None] + length[:, None] * centres) * pixels - 0.5).astype(np.float32)


def draw(
    rng: np.random.Generator, count: int, size: int, pixels: int, settings: Settings, epoch: int = 0
) -> dict[str, np.ndarray]:
    """Draw what `augment` does to each of `count` photos: all random numbers but the noise.

    Args:
        size: height and width in pixels at which the photos are sampled.
        pixels: their height and width in the cache.
        settings: how strong the augmentation is, in the given epoch.
    Returns:
        rows, columns: float32 (count, size), see `positions`: a random crop, mirrored or not.
        numbers: float32 (count, 10), see `CONTRAST` and the others.
    """
    uniform = iter(rng.random((18, count), np.float32))  # rows from 0 to 1
    all_epochs, settings = settings, recipe.of_epoch(settings, epoch)
    area = settings.crop_area + next(uniform) * (1 - settings.crop_area)
    aspect = np.exp((2 * next(uniform) - 1) * settings.aspect)  # width over height
    height = np.minimum(np.sqrt(area / aspect), 1)
    width = np.minimum(np.sqrt(area * aspect), 1)
    top, left = next(uniform) * (1 - height), next(uniform) * (1 - width)
    mirrored = (next(uniform) < 0.5) & settings.mirror
    columns = np.where(mirrored, left + width, left), np.where(mirrored, -width, width)
    numbers = np.empty((count, 10), np.float32)
    numbers[:, CONTRAST] = 1 + (2 * next(uniform) - 1) * settings.brightness
    change = 127.5 * (2 * next(uniform) - 1) * settings.brightness
    numbers[:, SHIFT] = change + 127.5 * (1 - numbers[:, CONTRAST])  # about the middle of 0-255
    is_turned = next(uniform) * all_epochs.rotation < settings.rotation
    numbers[:, ANGLE] = np.where(is_turned, (2 * next(uniform) - 1) * np.pi, 0)
    numbers[:, ROW], numbers[:, COLUMN] = next(uniform), next(uniform)  # of the grey square
    numbers[:, REACH] = next(uniform) * settings.erase / 2
    is_corrupted = next(uniform) * all_epochs.corruption < settings.corruption
    numbers[:, GREY] = is_corrupted & (next(uniform) < 1 / 3)
    is_dark = is_corrupted & (next(uniform) < 1 / 3)
    numbers[:, DARK] = np.where(is_dark, np.exp(-1.4 * next(uniform)), 1)  # down to a quarter
    noise = 120 * np.maximum(next(uniform) - 2 / 3, 0)  # a third of them up to 40
    numbers[:, NOISE] = np.where(is_corrupted, noise, 0)
    small = np.maximum(size / 2 / 4 ** next(uniform), min(12, size // 2))
    numbers[:, SMALL] = np.where(is_corrupted, small, 0)  # px: smaller by a factor of 2 to 8
    rows = positions(top, height, size, pixels)
    return {"rows": rows, "columns": positions(*columns, size, pixels), "numbers": numbers}


# --- Sample and augment: the device does the rest -------------------------------------------------


def sample(photos, rows, columns, dtype: str, contrast=1.0):
    """Return photos sampled at rows and columns: for training, and, without more, for evaluation.

    Sampling an axis is a product with a matrix, which processors and GPUs do faster than gathering.

    Args:
        photos: (batch, height, width, 3), 0-255, height and width alike.
        rows, columns: float32 (batch, size), see `positions`.
        dtype: of the products and of the result. Whole numbers up to 256 are exact in bfloat16.
        contrast: what the result is multiplied by: 1, or (batch, 1, 1).
    Returns:
        (batch, rows, columns, 3), in 0-255 unless there is a `contrast`.
    """
    ops, pixels = keras.ops, keras.ops.shape(photos)[1]
    images = ops.cast(photos, dtype)
    for matrix in (sampling_matrix(rows, pixels), sampling_matrix(columns, pixels) * contrast):
        # Each turn samples the first axis of the photos, then exchanges their two axes.
        size, others = ops.shape(matrix)[1], ops.shape(images)[2]
        flat = ops.reshape(images, (-1, pixels, others * 3))
        flat = ops.matmul(ops.cast(matrix, dtype), flat)  # (batch, size, others * 3)
        images = ops.transpose(ops.reshape(flat, (-1, size, others, 3)), (0, 2, 1, 3))
    return images


def sampling_matrix(positions, pixels):
    """Return (batch, size, pixels): how much a position takes of each pixel; the rows sum to 1.

    A triangle around the position: that of bilinear interpolation, or a wider one where a photo
    gets smaller, so that fine fur does not turn into a pattern. It reaches 0.7 of the step between
    positions to each side, and so averages over as much as a pixel of the smaller photo covers. A
    whole step, as in `tf.image.resize`, blurs so much that the network knows sharp photos less
    well: val_loss 0.24 and 0.21 instead of 0.19 and 0.16 (drawings of the demo, two seeds).
    """
    ops = keras.ops
    step = ops.abs(positions[:, 1:2] - positions[:, :1])
    width = ops.maximum(0.7 * step, 1.0)[:, :, None]
    distance = ops.abs(positions[:, :, None] - ops.arange(pixels, dtype="float32"))
    triangle = ops.maximum(0.0, 1.0 - distance / width)
    return triangle / ops.maximum(ops.sum(triangle, axis=-1, keepdims=True), 1e-6)


def augment(inputs: dict, settings: Settings, dtype: str, seed: keras.random.SeedGenerator):
    """Return photos as training sees them: sampled, turned, recoloured, corrupted, erased.

    The first photos of a batch are turned and the last ones corrupted. They come in random order,
    and how many they are is fixed, as JAX needs it.

    Args:
        inputs: of `training_batches`.
        dtype: of the result.
        seed: of the noise.
    Returns:
        (batch, size, size, 3) in 0-255.
    """
    ops, photos, numbers = keras.ops, inputs["photos"], inputs["numbers"][:, :, None, None, None]
    count = ops.shape(photos)[0]
    turned = count * round(1000 * settings.rotation) // 1000
    clean = count - count * round(1000 * settings.corruption) // 1000

    def sampled(photos, part):
        rows, columns = inputs["rows"][part], inputs["columns"][part]
        return sample(photos, rows, columns, dtype, numbers[part, CONTRAST, :, :, 0])

    images = sampled(photos[turned:], slice(turned, None))
    if settings.rotation:
        first = turn(photos[:turned], inputs["numbers"][:turned, ANGLE])
        images = ops.concatenate([sampled(first, slice(turned)), images])
    images = ops.clip(images + ops.cast(numbers[:, SHIFT], dtype), 0, 255)
    if settings.corruption:
        some = corrupt(images[clean:], ops.cast(numbers[clean:], dtype), seed)
        images = ops.concatenate([images[:clean], some])
    return erase(images, inputs["numbers"]) if settings.erase else images


def turn(photos, angle):
    """Turn photos by angles in radians, (batch,); what is missing in the corners is mirrored."""
    ops, centre = keras.ops, (photos.shape[1] - 1) / 2
    cos, sin, zero = ops.cos(angle), ops.sin(angle), ops.zeros_like(angle)
    # Output pixel (x, y) is sampled at (a0 x + a1 y + a2, b0 x + b1 y + b2) of the photo.
    rows = [cos, -sin, centre * (1 - cos + sin), sin, cos, centre * (1 - sin - cos), zero, zero]
    return ops.image.affine_transform(
        ops.cast(photos, "float32"), ops.stack(rows, axis=1), "bilinear", "reflect"
    )


def corrupt(images, numbers, seed: keras.random.SeedGenerator):
    """Make photos grey, dark, noisy, or several of these; half of them small and large again."""
    ops, half = keras.ops, keras.ops.shape(images)[0] // 2
    shrunk = shrink(images[:half], ops.maximum(numbers[:half, SMALL, :, 0, 0], 1))
    shrunk = ops.where(numbers[:half, SMALL] > 0, shrunk, images[:half])
    images = ops.concatenate([shrunk, images[half:]])
    grey = ops.mean(images, axis=-1, keepdims=True)
    images = (images + numbers[:, GREY] * (grey - images)) * numbers[:, DARK]
    noise = keras.random.normal(ops.shape(images), dtype=images.dtype, seed=seed)
    return ops.clip(images + numbers[:, NOISE] * noise, 0, 255)


def shrink(images, small):
    """Make images `small` px high and wide, (batch, 1), at most half as large, and large again."""
    ops, size = keras.ops, keras.ops.shape(images)[1]
    small = ops.cast(small, "float32")
    scale = ops.cast(size, "float32") / small
    down = (ops.arange(size // 2, dtype="float32") + 0.5) * scale - 0.5
    up = ops.clip((ops.arange(size, dtype="float32") + 0.5) / scale - 0.5, 0, small - 1)
    return sample(sample(images, down, down, images.dtype), up, up, images.dtype)


def erase(images, numbers):
    """Make a square grey: the network must not rely on one part of the animal.

    Method: cutout, DeVries and Taylor 2017.
    """
    ops, size = keras.ops, keras.ops.shape(images)[1]
    row, column, reach = (numbers[:, i, None] for i in (ROW, COLUMN, REACH))
    position = (ops.arange(size, dtype="float32") + 0.5) / ops.cast(size, "float32")
    rows = ops.abs(position - row) < reach
    columns = ops.repeat(ops.abs(position - column) < reach, 3, axis=1)
    # With three values per pixel side by side: a third of the time of a mask that broadcasts.
    flat = ops.reshape(images, (-1, size, 3 * size))
    flat = ops.where(rows[:, :, None] & columns[:, None, :], ops.cast(127.5, images.dtype), flat)
    return ops.reshape(flat, (-1, size, size, 3))


# --- What there is --------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Summarize the photos."""
    parser = argparse.ArgumentParser(
        description="Summarize the photos: number per class and split. No file is changed.",
        parents=[cli.data_arguments()],
    )
    add = parser.add_argument
    # fmt: off
    add("--augmented", metavar="FILE",
        help="draw 24 training photos as the network sees them into a new PNG file")
    add("--output", metavar="DIR", type=Path, help="new folder for a list of all photos (CSV)")
    add("--suspects", nargs="+", help=argparse.SUPPRESS)
    # fmt: on
    args = parser.parse_args(argv)
    if args.suspects:
        parser.error("argument --suspects: use evaluate.py --model RUN ... --suspects DIR")

    from catdog.scores import inspect

    cli.check_output(args.output, args.data_dir)
    lists = read_lists(args)
    if args.augmented:
        with cli.blame("--augmented"):
            files.check_new(args.augmented, "file")
    size = RECIPES["full"].score_size
    dataset = load(args.data_dir, size, args.cache_dir, **lists, check=False)
    text, rows = inspect.overview(dataset)
    print(text)
    if args.output:
        with cli.blame("--output"):
            inspect.write(args.output, rows)
        cli.say(f"All of them:  {printable(args.output / 'photos.csv')}")
    with cli.blame("--data-dir"):
        dataset.check()
    if args.augmented:
        save_augmented(dataset, Path(args.augmented))
    for line in dataset.warnings():
        cli.say(line)
    return 0


def save_augmented(dataset: Dataset, path: Path) -> None:
    """Draw up to 24 training photos, six side by side, as the recipe `full` shows them."""
    settings = dataclasses.replace(RECIPES["full"], batch_size=24, stages=(1.0,))
    inputs, _ = training_batches(dataset, settings, epoch=0)[0]
    images = augment(inputs, settings, "float32", keras.random.SeedGenerator(0))
    images = keras.ops.convert_to_numpy(images).round().astype(np.uint8)
    columns = min(6, len(images))
    rows = len(images) // columns
    sheet = np.concatenate([np.hstack(row) for row in np.split(images[: rows * columns], rows)])
    with cli.blame("--augmented"), files.atomic_file(path) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG")


if __name__ == "__main__":
    cli.run(main)
