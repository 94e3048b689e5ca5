"""What is among the photos: whether they are enough, counts, sizes, formats and copies.

Nothing here changes or deletes a photo. A dataset is a `data.Dataset`; groups are arrays of indices
of its photos.
"""

import collections
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from catdog import files
from catdog.errors import UserError
from catdog.files import counted, printable, quoted
from catdog.photos import alike, labels, photo
from catdog.photos.found import SPLITS
from catdog.runs import lines
from catdog.scores import tables

LINES = 12  # of a list that is shown; the CSV file has all
CHANGES = ("scaled or compressed anew", "brighter or darker", "mirrored")
LEFT_OUT = "left out"  # stands for the split of an excluded photo
FEW, FEW_OF_CLASS = 50, 10  # test photos, below which a score says little


# --- Whether they are enough ----------------------------------------------------------------------


def check(dataset) -> None:
    """Raise UserError if a split is empty, or a class has no training photos or a reserved name."""
    for name in dataset.classes:
        if name.strip().casefold() in lines.RESERVED:
            raise UserError(
                f"expected another name of the class {name}, which predict.py says of photos that "
                "show none of the classes; rename it, for example to other"
            )
    sizes, in_train = dataset.split_sizes(), dataset.class_counts("train")
    if 0 in sizes.values() or 0 in in_train:
        label = in_train.argmin()
        skipped = [dataset.skipped[i] for i in np.flatnonzero(dataset.skipped_labels == label)]
        number = counted(len(skipped), "file")
        first = f"; skipped {number}, the first {': '.join(skipped[0])}" if skipped else ""
        raise UserError(
            "expected enough photos of every class for training, validation and test, at least 3, "
            f"got {counted(len(dataset.names), 'photo')} in {dataset.root} ("
            + ", ".join(f"{name} {count}" for name, count in sizes.items())
            + f"), of which {(dataset.labels == label).sum()} of "
            + dataset.classes[label]
            + first
        )


def warnings(dataset) -> list[str]:
    """Return what makes the score on the test split say little, and what helps."""
    told, test, counts = [], dataset.splits["test"], dataset.class_counts("test")
    here = f"--data-dir {quoted(dataset.root)}"
    if len(test) < FEW or counts.min() < FEW_OF_CLASS:
        fewest = f"{dataset.classes[counts.argmin()]} ({counts.min()})"
        told.append(
            f"Warning: only {counted(len(test), 'test photo')}, the fewest of {fewest}: the score "
            "will say little."
        )
        if not dataset.has_given_split:
            told.append("To score every photo, train with --folds 5.")
    copies = alike.have_copies(dataset.images, test, dataset.splits["train"]).sum()
    if copies >= max(1, 0.01 * len(test)):
        told += [
            f"Warning: {copies:,} of {len(test):,} test photos have a copy in training, as it is, "
            "mirrored or brighter: their score will be too good.",
            f"         For a list: python data.py {here} --output copies; then "
            "--exclude copies/copies.txt",
        ]
    return told


# --- Copies ---------------------------------------------------------------------------------------


def hashes_and_thumbnails(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return what tells whether photos look the same.

    Returns:
        hashes: uint64 `(n,)`, see `alike.look_hashes`.
        thumbnails: uint8 `(n, 16, 16, 3)`.
    """
    hashes, thumbnails = [], []
    for batch in dataset.batches(np.arange(len(dataset.labels)), 256):
        hashes.append(alike.look_hashes(batch))
        thumbnails.append(alike.thumbnails(batch))
    return np.concatenate(hashes), np.concatenate(thumbnails)


def near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the photos that look the same, as they are or mirrored, whatever their brightness.

    Compares every hash with every other in blocks: 25,000 photos take a few seconds. The thumbnails
    then rule out pairs that only have the same lights and shadows.

    Returns:
        The pairs, int `(m, 2)`, the first index below the second; and in which way each pair
        differs, of `CHANGES`, `(m,)`.
    """
    found, changes = [np.zeros((0, 2), int)], [np.zeros(0, int)]
    for step, theirs in ((1, hashes), (-1, alike.mirrored(hashes))):
        for start in range(0, len(hashes), 256):
            block = hashes[start : start + 256, None]
            first, second = np.nonzero(alike.are_near(block, theirs[start:]))
            pairs = np.stack([first, second], 1)[second > first] + start
            small = thumbnails[pairs[:, 0]], thumbnails[pairs[:, 1]][:, :, ::step]
            same, equal = alike.same_look(*small)
            found.append(pairs[same])
            changes.append(np.where(equal[same], 0, 1) if step == 1 else np.full(same.sum(), 2))
    pairs, first = np.unique(np.concatenate(found), axis=0, return_index=True)
    return pairs, np.concatenate(changes)[first]


def groups_of(n: int, pairs: np.ndarray) -> list[np.ndarray]:
    """Return the groups of `n` photos that share a pair of `pairs`, the largest first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), bool)
    _, group = connected_components(coo_array((ones, tuple(pairs.T)), shape=(n, n)))
    members = np.unique(pairs)
    return _largest_first(zip(group[members], members, strict=True))


def identical_groups(digests: Sequence) -> list[np.ndarray]:
    """Return the groups of photos with the same bytes, the largest first."""
    return _largest_first(zip(digests, range(len(digests)), strict=True))


def _largest_first(keys_and_members):
    groups = collections.defaultdict(list)
    for key, member in keys_and_members:
        groups[key].append(member)
    found = [np.array(members) for members in groups.values() if len(members) > 1]
    return sorted(found, key=len, reverse=True)


# --- What there is --------------------------------------------------------------------------------


def split_names(dataset) -> np.ndarray:
    """Return the name of each photo's split, or `left out`: `(n,)`, of str."""
    names = np.full(len(dataset.labels), LEFT_OUT, object)
    for split, members in dataset.splits.items():
        names[members] = split
    return names


def headers(dataset) -> list[tuple[str, int, int]]:
    """Return (format, width, height) of each photo's file, before it is turned upright."""
    found = []
    for path in dataset.paths:
        header = ("?", 0, 0)
        # It may have become a pipe, or broken, since it was decoded.
        with contextlib.suppress(Exception), photo.content_of(dataset.root / path) as content:
            kind, image = photo.header(content)
            header = (kind, *image.size)
        found.append(header)
    return found


def overview(dataset) -> tuple[str, list[list]]:
    """Return what there is: text for the terminal, and a row per photo for `photos.csv`."""
    splits, found = split_names(dataset), headers(dataset)
    identical = identical_groups(dataset.digests)
    known = {tuple(group) for group in identical}
    pairs, changes = near_pairs(*hashes_and_thumbnails(dataset))
    near = groups_of(len(splits), pairs)
    near = [group for group in near if tuple(group) not in known]
    changes = changes[dataset.digests[pairs[:, 0]] != dataset.digests[pairs[:, 1]]]

    areas = sorted((width * height, f"{width}x{height}") for _, width, height in found)
    smallest, median, largest = (areas[i][1] for i in (0, len(areas) // 2, -1))
    formats = collections.Counter(header[0] for header in found).most_common()
    text = [
        f"{counted(len(splits), 'photo')} in {printable(dataset.root)}",
        dataset.summary,
        "",
        *count_table(dataset, splits),
        "",
        f"sizes     {smallest} to {largest} pixels, median {median}",
        "formats   " + ", ".join(f"{name} {count:,}" for name, count in formats),
        f"skipped   {counted(len(dataset.skipped), 'file')}",
        *_some(f"  {printable(path)}: {reason}" for path, reason in dataset.skipped),
    ]
    if others := [f"{end or 'no ending'} {n:,}" for end, n in dataset.others.items()]:
        text.append(f"others    {', '.join(map(printable, others[:LINES]))}; no photos")
    for title, groups in (("identical", identical), ("near-identical", near)):
        # First those that matter most: of several splits or labels.
        kinds = [len(set(splits[group])) + len(set(dataset.labels[group])) for group in groups]
        order = np.argsort(kinds, kind="stable")[::-1]
        text += ["", summary(title, groups, dataset, splits)]
        text += _some(describe(groups[i], dataset, splits) for i in order)
    if len(changes):
        counts = zip(CHANGES, np.bincount(changes, minlength=len(CHANGES)), strict=True)
        text += ["", "pairs: " + ", ".join(f"{count:,} {change}" for change, count in counts)]

    numbers = {i: number for number, group in enumerate([*identical, *near], 1) for i in group}
    rows = [["path", "class", "split", "format", "width", "height", "group"]]
    for i, (path, label) in enumerate(zip(dataset.paths, dataset.labels, strict=True)):
        rows.append([path, dataset.classes[label], splits[i], *found[i], numbers.get(i, "")])
    return "\n".join(text), rows


def count_table(dataset, splits: np.ndarray) -> list[str]:
    """Return the photos per class and split, as lines; of many classes, the extremes."""
    columns = [*SPLITS, *([LEFT_OUT] if len(dataset.excluded) else [])]
    counts = np.zeros((len(dataset.classes), len(columns)), int)
    np.add.at(counts, (dataset.labels, [columns.index(split) for split in splits]), 1)
    order = range(len(counts))
    if len(order) > LINES:
        by_size = np.argsort(counts.sum(1), kind="stable")
        order = [*by_size[: LINES // 2], *by_size[-LINES // 2 :]]
    named = [(printable(dataset.classes[i]), counts[i]) for i in order]
    rows = [
        [name, *(f"{n:,}" for n in row), f"{row.sum():,}"]
        for name, row in [*named, ("all", counts.sum(0))]
    ]
    return tables.table([["class", *columns, "all"], *rows], left=1)


def summary(title: str, groups: Sequence[np.ndarray], dataset, splits: np.ndarray) -> str:
    """Return one line about groups of copies."""
    straddling = sum(len(set(splits[group]) - {LEFT_OUT}) > 1 for group in groups)
    contrary = sum(len(set(dataset.labels[group])) > 1 for group in groups)
    return (
        f"{title}: {counted(len(groups), 'group')} of {sum(map(len, groups)):,} photos, of which "
        f"{straddling:,} straddle splits and {contrary:,} have several labels"
    )


def describe(group: np.ndarray, dataset, splits: np.ndarray) -> str:
    """Return one line about a group: its photos and their splits."""
    shown = [f"{printable(dataset.paths[i])} ({splits[i]})" for i in group[:6]]
    more = [f"{len(group) - 6:,} more"] if len(group) > 6 else []
    return "  " + ", ".join(shown + more)


def _some(items: Iterable[str]) -> list[str]:
    items = list(items)
    more = [f"  and {len(items) - LINES:,} more"] if len(items) > LINES else []
    return items[:LINES] + more


def write(folder: Path, rows: Sequence[Sequence]) -> None:
    """Write a new folder with the rows of `overview` as `photos.csv`, and `copies.txt`.

    The latter is a file for --exclude: all photos of each group of copies but the first.
    """
    seen, copies = set(), []
    for path, *_, group in rows[1:]:
        if group in seen:
            copies.append(f"{labels.quoted(path)}\n")
        elif group:
            seen.add(group)
    with files.atomic_folder(folder) as temporary:
        tables.write_csv(temporary / "photos.csv", rows)
        content = "".join(copies).encode("utf-8", "surrogateescape")
        (temporary / "copies.txt").write_bytes(content)


def draw(images: np.ndarray, path: Path) -> None:
    """Draw images, (n, size, size, 3) in 0-255, into a PNG file, six side by side."""
    images = images.round().astype(np.uint8)
    columns = min(6, len(images))
    rows = len(images) // columns
    sheet = np.concatenate([np.hstack(row) for row in np.split(images[: rows * columns], rows)])
    with files.atomic_file(path, make_folder=True) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG")
