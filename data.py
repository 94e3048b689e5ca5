"""The data set: loads, splits, streams and augments the photos.

    python data.py                   number of photos per class and split, sizes, copies
    python data.py --output DIR      and a list of all of them

Arrays of photos are uint8, (n, size, size, 3), RGB, 0-255. Labels are int, indices into `classes`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from catdog import early

    early.end_quietly()  # at Ctrl-C, while the modules below are loaded

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog import cli, files
from catdog.backend import keras
from catdog.errors import UserError
from catdog.files import counted
from catdog.photos import alike, cache, index
from catdog.photos import labels as label_files
from catdog.photos.found import SPLITS, TRAIN
from catdog.training import devices, recipe
from catdog.training.pixels import corrupt, erase, sample, turn
from catdog.training.recipe import RECIPES
from catdog.training.settings import Settings

SHARES = (0.8, 0.1, 0.1)  # shares of all photos: training, validation, test
SMALL_CLASS = 500  # a class of fewer photos is divided exactly


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

    In a class of `SMALL_CLASS` photos or more, a photo's split does not depend on the seed or on
    other photos, except identical ones: files with the same bytes go where the first of them by
    name goes. A smaller class is divided exactly, in the order of the hashes, so an added photo may
    move others of it.
    A class of ten different photos or more has at least one in each split, unless copies of one
    photo fill that split. With fold 0, so has a class of three to nine.

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
        assigned = given_split.copy()
        train = np.flatnonzero(given_split == TRAIN)
        of_train = None if labels is None else labels[train]
        hashed = split([names[i] for i in train], np.asarray(digests)[train], of_train, fold=fold)
        # Only a split that is empty takes photos. The others stay in training.
        assigned[train] = np.where(np.isin(hashed, given_split), TRAIN, hashed)
        return assigned
    hashes = name_hashes(names)
    _, group, sizes = np.unique(digests, return_inverse=True, return_counts=True)
    leader = np.arange(len(hashes))  # of identical files, the first by name
    first_of_group = {}
    for i in sorted(np.flatnonzero(sizes[group] > 1).tolist(), key=names.__getitem__):
        leader[i] = first_of_group.setdefault(group[i], i)
    position = hashes / 2.0**64  # in [0, 1)
    counts = np.zeros(0, int) if labels is None else np.bincount(labels)
    for label in np.flatnonzero((counts < SMALL_CLASS) & (counts > 0)):
        members = np.flatnonzero((labels == label) & (leader == np.arange(len(leader))))
        members = members[np.argsort(hashes[members], kind="stable")]
        copies = sizes[group[members]]  # of each photo, itself included
        # Start at a fraction of one photo's share that looks random, from the low bits of a hash.
        # From 0, the split sizes of all small classes would be rounded in the same direction. (A
        # single photo starts at 0: it is for training.)
        start = int(hashes[members].min()) % 2**32 / 2**32 if len(members) > 1 else 0
        position[members] = (copies.cumsum() - copies + start) / copies.sum()
        if 2 < len(members) < 10:
            # The last two are validation and test, the others are spread over the eight tenths of
            # training: five photos are at 0.05, 0.25, 0.55, 0.85 and 0.95.
            rest = len(members) - 2
            position[members] = np.add([*np.arange(rest) * 8 // rest, 8, 9], 0.5) / 10
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
    splits: dict[str, np.ndarray]  # indices of the photos of each split, without `excluded`
    skipped: list[tuple[str, str]]  # path and reason of each file that could not be decoded
    skipped_labels: np.ndarray  # int (k,), the label of each skipped file
    root: Path
    digests: np.ndarray  # (n,) a digest of each file's bytes
    excluded: np.ndarray  # indices of the photos that are left out by `exclude`
    summary: str  # one line: where labels and split come from
    others: dict[str, int]  # files that are no photos: ending, number
    has_given_split: bool  # whether the user's folders or a column of a CSV file say the split

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
        counts = self.class_counts("train")
        return dict(enumerate((counts.sum() / (len(counts) * counts)).tolist()))

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
    size: int,
    cache_dir: str,
    exclude: Sequence[str] = (),
    fold: int = 0,
    relabel: dict[str, str] | None = None,
    classes: Sequence[str] = (),
) -> Dataset:
    """Find, decode (once, into a cache on disk) and split the photos under `data_dir`.

    Args:
        data_dir: folder of labelled photos, in one of the layouts of `index.find`.
        size: height and width of the decoded photos in pixels.
        cache_dir: folder for the cache; it is made if it is missing.
        exclude: names of photos to leave out, see `labels.read_names`.
        fold: 0 to 9, see `split`.
        relabel: new labels of photos by name, see `labels.read_relabels`.
        classes: the classes of a network that will score the photos; by default those found.
    Raises:
        UserError: see `index.find` and `cache.images`.
    """
    with cli.blame("--data-dir"):
        found = index.find(data_dir, cache_dir, classes)
    with cli.blame("--relabel"):
        labels = label_files.relabelled(found, data_dir, relabel or {})
    with cli.blame("--cache-dir"):
        images, digests, errors = cache.images(
            found, size, Path(cache_dir), cli.progress("decoding", " photos")
        )
    with cli.blame("--data-dir"):
        if len(errors) == len(found.paths):
            got = f"{counted(len(errors), 'file')} that cannot be decoded"
            raise UserError(f"expected photos, got {got}; the first, {found.paths[0]}: {errors[0]}")
    # The files that are photos: `images` holds only these, all else is of all files.
    good = np.delete(np.arange(len(found.paths)), list(errors))
    names = [found.names[i] for i in good.tolist()]
    given_split = None if found.given_split is None else found.given_split[good]
    # Split first, so that excluding or relabelling one photo moves no other to another split.
    assigned = split(names, digests[good], found.labels[good], given_split, fold)
    excluded = np.isin(good, [i for i, _ in label_files.matching(found, data_dir, exclude)])
    return Dataset(
        images=images,
        labels=labels[good],
        classes=found.classes,
        paths=[found.paths[i] for i in good.tolist()],
        names=names,
        splits={k: np.flatnonzero((assigned == i) & ~excluded) for i, k in enumerate(SPLITS)},
        skipped=[(found.paths[i], error) for i, error in errors.items()],
        skipped_labels=labels[list(errors)],
        root=found.root,
        digests=digests[good],
        excluded=np.flatnonzero(excluded),
        summary=found.summary,
        others=found.others,
        has_given_split=given_split is not None,
    )


def load_for(run, args: argparse.Namespace, **lists) -> Dataset:
    """Load photos to score with a `Run`: at its `score_size`, split by its `fold`.

    Args:
        args: what the parser of `cli.data_arguments` returned.
        lists: `exclude` and `relabel`, used unless --exclude or --relabel is given.
    Raises:
        UserError: see `load`; or the photos have a class that the run does not know.
    """
    places = {"data_dir": args.data_dir, "cache_dir": args.cache_dir}
    given = {name: each for name, each in read_lists(args).items() if getattr(args, name)}
    return load(
        **places,
        **{**lists, **given},
        size=run.config["score_size"],
        fold=run.settings.fold,
        classes=run.config["classes"],
    )


# --- Stream: the host says which photos -----------------------------------------------------------


def training_batches(dataset: Dataset, settings: Settings, epoch: int) -> keras.utils.PyDataset:
    """Return the training photos of one epoch in shuffled batches, with what `augment` needs.

    Each batch depends only on seed, epoch and step, so a resumed run sees the same batches. The
    last, incomplete batch of an epoch is left out.

    Args:
        epoch: counted from 0.
    Returns:
        Batches of (inputs, targets). The inputs are NumPy arrays: `photos`, uint8 (batch, height,
        width, 3), and what `draw` returns. The targets are what `targets_of` returns.
    """
    order = np.random.default_rng([settings.seed, epoch]).permutation(dataset.splits["train"])
    batch_size = min(settings.batch_size, len(order))
    size = settings.image_sizes()[epoch]

    def batch(step):
        rng = np.random.default_rng([settings.seed, epoch, step + 1])  # 0 is that of `order`
        drawn = draw(rng, batch_size, size, dataset.images.shape[1], settings, epoch)
        return order[step * batch_size : (step + 1) * batch_size], drawn

    return stream(dataset, batch, len(order) // batch_size)


def evaluation_batches(
    dataset: Dataset, members: np.ndarray, batch_size: int, size: int
) -> keras.utils.PyDataset:
    """Return photos as they are, each once and in order, in batches of equal size.

    Every device then has an equal share. The last batch is filled up with copies of weight 0.

    Args:
        members: (m,) indices of photos.
        size: height and width in pixels at which they are sampled.
    Returns:
        Batches of (inputs, targets, weights). The inputs are `photos`, and evenly spaced `rows` and
        `columns`. The weights are float32 (batch,): 1, or 0 for the copies.
    """
    padded = np.pad(members, (0, -len(members) % batch_size), mode="edge")
    weights = (np.arange(len(padded)) < len(members)).astype(np.float32)
    whole = positions(np.zeros(batch_size), np.ones(batch_size), size, dataset.images.shape[1])

    def batch(step):
        part = slice(step * batch_size, (step + 1) * batch_size)
        return padded[part], {"rows": whole, "columns": whole}, weights[part]

    return stream(dataset, batch, len(padded) // batch_size)


def stream(dataset: Dataset, batch: Callable[[int], tuple], steps: int) -> keras.utils.PyDataset:
    """Return the batches of all steps as Keras takes them; each process reads its own share.

    Args:
        batch: function of a step. It returns the indices of photos, the inputs other than `photos`,
            and in evaluation weights.
    """

    class Stream(keras.utils.PyDataset):  # here, as importing this file must not load Keras
        def __len__(self):
            return steps

        def __getitem__(self, step):
            members, *others = batch(step)
            own = devices.share(len(members))
            inputs, *weights = keras.tree.map_structure(lambda array: array[own], others)
            photos, labels = dataset.images[members[own]], dataset.labels[members[own]]
            return {"photos": photos} | inputs, targets_of(labels, len(dataset.classes)), *weights

    return Stream()


def targets_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return float32 (batch, 1) of 0 and 1 for two classes, one-hot (batch, classes) for more."""
    if classes == 2:
        return labels[:, None].astype(np.float32)
    return np.eye(classes, dtype=np.float32)[labels]


def positions(start: np.ndarray, length: np.ndarray, size: int, pixels: int) -> np.ndarray:
    """Return evenly spaced positions on an axis of each photo: float32 (batch, size), in pixels.

    Args:
        start, length: (batch,), the part to sample, in shares of the axis; negative lengths mirror.
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
        settings: those of the run; `recipe.of_epoch` makes them milder in the last epochs.
    Returns:
        Arrays of float32: `rows` and `columns`, (count, size), say where to sample, see
        `positions`; the others, (count,), are one number per photo.
    """
    # Each row of numbers is taken once, in the order of this function.
    uniform = iter(rng.random((18, count), np.float32))  # from 0 to 1
    signed = (2 * each - 1 for each in uniform)  # the next of `uniform`, from -1 to 1
    all_epochs, settings = settings, recipe.of_epoch(settings, epoch)
    area = settings.crop_area + next(uniform) * (1 - settings.crop_area)
    aspect = np.exp(next(signed) * settings.aspect)  # width over height
    height, width = np.minimum(np.sqrt([area / aspect, area * aspect]), 1)
    top, left = next(uniform) * (1 - height), next(uniform) * (1 - width)
    mirrored = (next(uniform) < 0.5) & settings.mirror
    start = np.where(mirrored, left + width, left)
    length = np.where(mirrored, -width, width)
    contrast = 1 + next(signed) * settings.brightness
    brighter = 127.5 * next(signed) * settings.brightness
    # `augment` turns the share `rotation` of each batch, as JAX compiles for fixed shapes. All of
    # these photos get an angle, but in the last epochs, where `settings` are mild, only some.
    may_turn = next(uniform) * all_epochs.rotation < settings.rotation
    drawn = {
        "rows": positions(top, height, size, pixels),
        "columns": positions(start, length, size, pixels),
        "contrast": contrast,
        "shift": brighter + 127.5 * (1 - contrast),  # about the middle of 0-255
        "angle": np.where(may_turn, next(signed) * np.pi, 0),  # radians
        "row": next(uniform),  # the centre of the grey square, as a share of the photo's side
        "column": next(uniform),
        "reach": next(uniform) * settings.erase / 2,  # half the side of the square
    }
    may_corrupt = next(uniform) * all_epochs.corruption < settings.corruption
    drawn["grey"] = may_corrupt & (next(uniform) < 1 / 3)
    is_dark = may_corrupt & (next(uniform) < 1 / 3)
    drawn["dark"] = np.where(is_dark, np.exp(-1.4 * next(uniform)), 1)  # down to a quarter
    noise = 120 * np.maximum(next(uniform) - 2 / 3, 0)  # a third get noise: deviation up to 40
    drawn["noise"] = np.where(may_corrupt, noise, 0)
    small = np.maximum(size / 2 / 4 ** next(uniform), min(12, size // 2))
    # px: 1/2 to 1/8 of `size`, at least 12; used for half of the corrupted photos.
    drawn["small"] = np.where(may_corrupt, small, 0)
    return {name: array.astype(np.float32) for name, array in drawn.items()}


# --- Augment: the device does the rest ------------------------------------------------------------


def augment(inputs: dict, settings: Settings, dtype: str, seed: keras.random.SeedGenerator):
    """Return photos as training sees them: turned, sampled, recoloured, corrupted, erased.

    The first photos of a batch are turned and the last ones corrupted. The order of a batch is
    random, so these are random photos. How many they are is the same in every batch, as JAX
    compiles for fixed shapes.

    Args:
        inputs: the inputs of a batch of `training_batches`.
        dtype: the type of the result.
        seed: the generator of the noise.
    Returns:
        (batch, size, size, 3) in 0-255.
    """
    ops = keras.ops
    photos = inputs["photos"]
    contrast = inputs["contrast"][:, None, None]
    count = ops.shape(photos)[0]
    # In whole thousandths, as `count` may be a tensor of whole numbers:
    turned = count * round(1000 * settings.rotation) // 1000
    clean = count - count * round(1000 * settings.corruption) // 1000

    def sampled(photos, part):  # with contrast, which is cheaper on a matrix than on photos
        return sample(photos, inputs["rows"][part], inputs["columns"][part], dtype, contrast[part])

    def numbers(name, part=slice(None)):
        return ops.cast(inputs[name][part, None, None, None], dtype)

    images = sampled(photos[turned:], slice(turned, None))
    if settings.rotation:
        first = turn(photos[:turned], inputs["angle"][:turned])
        images = ops.concatenate([sampled(first, slice(turned)), images])
    images = ops.clip(images + numbers("shift"), 0, 255)
    if settings.corruption:
        how = [numbers(name, slice(clean, None)) for name in ("grey", "dark", "noise", "small")]
        images = ops.concatenate([images[:clean], corrupt(images[clean:], *how, seed)])
    if settings.erase:
        images = erase(images, inputs["row"], inputs["column"], inputs["reach"])
    return images


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
    add("--suspects", nargs="+", help=argparse.SUPPRESS)  # of an earlier release
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
            files.check_outside(args.augmented, args.data_dir)
    size = RECIPES["full"].score_size  # so that training finds the cache
    dataset = load(args.data_dir, size, args.cache_dir, **lists)
    text, rows = inspect.overview(dataset)
    print(text)
    if args.output:
        with cli.blame("--output"):
            inspect.write(args.output, rows)
        cli.say(f"All of them:  {args.output / 'photos.csv'}")
    with cli.blame("--data-dir"):
        inspect.check(dataset)
    if args.augmented:
        settings = dataclasses.replace(RECIPES["full"], batch_size=24, stages=(1.0,))
        inputs, _ = training_batches(dataset, settings, epoch=0)[0]
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
        images = augment(inputs, settings, "float32", keras.random.SeedGenerator(0))
        with cli.blame("--augmented"):
            inspect.draw(keras.ops.convert_to_numpy(images), Path(args.augmented))
    for line in inspect.warnings(dataset):
        cli.say(line)
    return 0


if __name__ == "__main__":
    cli.run(main)
