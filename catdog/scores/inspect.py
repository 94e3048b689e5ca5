"""What there is among the photos: counts, sizes, formats, copies, and labels that may be wrong.

Nothing here changes or deletes a file; `--exclude` lets a user act on what is found.
"""

import collections
import contextlib
import csv

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import data
from catdog import files
from catdog.photos import photo as photos
from catdog.scores import metrics as report
from catdog.runs import run as runs
from catdog.cli import progress, say
from catdog.errors import UserError
from catdog.files import printable

LINES = 12  # of a list that is printed; --output writes all
NEAR_BITS = 6  # of 64 in which the hashes of near-identical photos may differ
NEAR_LEVELS = 8.0  # of 255, the mean difference of their pixels, shrunk to 16x16
SHEET_COLUMNS, SHEET_ROWS, SHEET_TILE = 10, 10, 150  # photos, photos, px


# --- Copies ---------------------------------------------------------------------------------------


def shrink(images, height, width):
    """Averages (n, S, S, 3) over equal rectangles: float32 (n, height, width, 3)."""
    size = images.shape[1]

    def averaging(parts):  # (parts, S), rows that sum to 1
        edges = np.linspace(0, size, parts + 1)
        low, high = np.arange(size), np.arange(1, size + 1)
        covered = np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None])
        return (covered.clip(0) * parts / size).astype(np.float32)

    rows = averaging(height) @ images.reshape(len(images), size, -1).astype(np.float32)
    # One matrix for all colours: products with a last axis of three are ten times slower.
    columns = np.kron(averaging(width).T, np.eye(3, dtype=np.float32))
    return (rows @ columns).reshape(len(images), height, width, 3)


def hashes_and_thumbnails(dataset):
    """Two ways to see whether photos are alike.

    Returns:
        hashes: (n,) uint64; a bit says whether the grey photo, shrunk to 9x8, is lighter than at
            its left neighbour (dHash, N. Krawetz 2013).
        thumbnails: uint8 (n, 16, 16, 3).
    """
    hashes, thumbnails = [], []
    for batch in dataset.batches(np.arange(len(dataset.labels)), 256):
        small = shrink(batch, 16, 16)
        grey = shrink(small, 8, 9).mean(-1)
        bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(batch), 64)
        hashes.append(np.packbits(bits, axis=1).view(np.uint64)[:, 0])
        thumbnails.append(small.round().astype(np.uint8))
    return np.concatenate(hashes), np.concatenate(thumbnails)


def near_pairs(hashes, thumbnails, bits=NEAR_BITS, levels=NEAR_LEVELS):
    """(m, 2) indices, the first below the second, of photos that look the same.

    Compares every hash with every other in blocks: 25,000 photos take a few seconds. The thumbnails
    then tell apart what only has the same lights and shadows.
    """
    pairs = [np.zeros((0, 2), int)]
    for start in range(0, len(hashes), 256):
        block = hashes[start : start + 256, None]
        first, second = np.nonzero(np.bitwise_count(block ^ hashes[start:]) <= bits)
        later = second > first
        pairs.append(np.stack([first, second], 1)[later] + start)
    pairs = np.concatenate(pairs)
    differences = [
        np.abs(np.subtract(*(thumbnails[part].astype(np.int16) for part in some.T))).mean((1, 2, 3))
        for some in np.array_split(pairs, len(pairs) // 10_000 + 1)
    ]
    return pairs[np.concatenate(differences) <= levels]


def groups_of(n, pairs):
    """Joins pairs that share a photo: a list of index arrays, the largest groups first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), bool)
    _, group = connected_components(coo_array((ones, tuple(pairs.T)), shape=(n, n)))
    members = np.unique(pairs)
    numbers = group[members]
    groups = [members[numbers == number] for number in np.unique(numbers)]
    return sorted(groups, key=len, reverse=True)


def identical_groups(digests):
    """Groups of photos with the same bytes, as `groups_of` gives them."""
    by_digest = collections.defaultdict(list)
    for i, digest in enumerate(digests):
        by_digest[digest].append(i)
    groups = [np.array(members) for members in by_digest.values() if len(members) > 1]
    return sorted(groups, key=len, reverse=True)


# --- What is there --------------------------------------------------------------------------------


def split_names(dataset):
    """(n,) the name of each photo's split, or `left out`."""
    names = np.full(len(dataset.labels), "left out", object)
    for split, members in dataset.splits.items():
        names[members] = split
    return names


def headers(dataset):
    """(format, width, height) of each photo's file, before it is turned upright."""
    found = []
    for path in dataset.paths:
        header = ("?", 0, 0)
        with (contextlib.suppress(OSError, Image.DecompressionBombError),
              Image.open(dataset.root / path, formats=photos.FORMATS) as image):
            header = (image.format, *image.size)
        found.append(header)
    return found


def show(dataset):
    """Prints what is there; returns rows for `photos.csv`."""
    splits = split_names(dataset)
    found = headers(dataset)
    identical = identical_groups(dataset.digests)
    known = {tuple(group) for group in identical}
    near = groups_of(len(splits), near_pairs(*hashes_and_thumbnails(dataset)))
    near = [group for group in near if tuple(group) not in known]

    print(f"{len(splits):,} photos in {printable(dataset.root)}\n")
    print(count_table(dataset, splits))
    areas = sorted((width * height, f"{width}x{height}") for _, width, height in found)
    smallest, median, largest = (areas[i][1] for i in (0, len(areas) // 2, -1))
    formats = collections.Counter(header[0] for header in found).most_common()
    print(f"\nsizes     {smallest} to {largest} pixels, median {median}")
    print("formats   " + ", ".join(f"{name} {count:,}" for name, count in formats))
    print(f"skipped   {len(dataset.skipped):,} files")
    print_some(f"  {printable(path)}: {reason}" for path, reason in dataset.skipped)
    for title, groups in (("identical", identical), ("near-identical", near)):
        print(f"\n{summary(title, groups, dataset, splits)}")
        print_some(describe(group, dataset, splits) for group in sorted(
            groups, key=lambda group: -len(set(splits[group]) | set(dataset.labels[group]))))

    numbers = {i: number for number, group in enumerate([*identical, *near], 1) for i in group}
    rows = [["path", "class", "split", "format", "width", "height", "group"]]
    for i, header in enumerate(found):
        rows.append([dataset.paths[i], dataset.classes[dataset.labels[i]], splits[i], *header,
                     numbers.get(i, "")])
    return rows


def count_table(dataset, splits):
    """Photos by class and split, as text; with many classes, the smallest and the largest."""
    columns = [*data.SPLITS, *(["left out"] if len(dataset.excluded) else [])]
    counts = np.zeros((len(dataset.classes), len(columns)), int)
    np.add.at(counts, (dataset.labels, [columns.index(split) for split in splits]), 1)
    names = [printable(name) for name in dataset.classes]
    order = range(len(names))
    if len(names) > LINES:
        by_size = np.argsort(counts.sum(1), kind="stable")
        order = [*by_size[: LINES // 2], *by_size[-LINES // 2 :]]
    rows = [["class", *columns, "all"]]
    rows += [[names[i], *(f"{n:,}" for n in counts[i]), f"{counts[i].sum():,}"] for i in order]
    rows.append(["all", *(f"{n:,}" for n in counts.sum(0)), f"{counts.sum():,}"])
    return "\n".join(report.table(rows, left=1))


def summary(title, groups, dataset, splits):
    """One line about groups of copies."""
    straddling = sum(len(set(splits[group]) - {"left out"}) > 1 for group in groups)
    contrary = sum(len(set(dataset.labels[group])) > 1 for group in groups)
    return (f"{title}: {len(groups):,} groups of {sum(map(len, groups)):,} photos, of which "
            f"{straddling:,} straddle splits and {contrary:,} have several labels")


def describe(group, dataset, splits):
    """One line about a group: its photos and their splits."""
    shown = [f"{printable(dataset.paths[i])} ({splits[i]})" for i in group[:6]]
    more = [f"{len(group) - 6:,} more"] if len(group) > 6 else []
    return "  " + ", ".join(shown + more)


def print_some(lines):
    lines = list(lines)
    for line in lines[:LINES]:
        print(line)
    if len(lines) > LINES:
        print(f"  and {len(lines) - LINES:,} more")


# --- Labels that may be wrong ---------------------------------------------------------------------


def suspects(classifier, dataset):
    """Ranks photos that the network did not train on by how strongly it disputes their label.

    Returns:
        members: (m,) indices, the most disputed label first.
        probabilities: (m, n_classes) of them.
    """
    members = np.concatenate([dataset.splits["validation"], dataset.splits["test"]])
    trained_on = runs.trained_on(classifier.run, dataset, members)
    if trained_on is not None and trained_on.any():
        say(f"Left out {trained_on.sum():,} photos that the model was trained on.")
        members = members[~trained_on]
    if not len(members):
        raise UserError("--suspects: expected photos that the model was not trained on, got none")
    logits = classifier.logits_of(dataset, members, progress("scoring", " photos"))
    probabilities = classifier.probabilities(logits)
    order = np.argsort(probabilities[np.arange(len(members)), dataset.labels[members]],
                       kind="stable")
    return members[order], probabilities[order]


def suspect_rows(dataset, members, probabilities):
    """Rows for `suspects.csv`: what `--exclude` takes stands in the second column."""
    splits = split_names(dataset)
    rows = [["rank", "path", "split", "label", "predicted", "probability_of_label"]]
    for rank, (i, row) in enumerate(zip(members, probabilities, strict=True), 1):
        label = dataset.labels[i]
        rows.append([rank, dataset.paths[i], splits[i], dataset.classes[label],
                     dataset.classes[row.argmax()], f"{row[label]:.6g}"])
    return rows


def contact_sheet(dataset, rows, members):
    """Draws the photos of the first rows of `suspect_rows` side by side, each with its name."""
    count = min(len(members), SHEET_COLUMNS * SHEET_ROWS)
    columns = min(count, SHEET_COLUMNS)
    tile, caption = SHEET_TILE, 36
    height = -(-count // columns) * (tile + caption)
    sheet = Image.new("RGB", (columns * tile, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (i, row) in enumerate(zip(members[:count], rows[1:], strict=False)):
        left, top = place % columns * tile, place // columns * (tile + caption)
        try:
            photo = photos.open_photo(dataset.root / dataset.paths[i], tile)
        except photos.PhotoError:  # gone since it was decoded
            photo = Image.fromarray(dataset.images[i])
        photo = ImageOps.pad(photo, (tile - 4, tile - 4), color="#d9e0e7")
        sheet.paste(photo, (left + 2, top + 2))
        rank, path, _, label, predicted, probability = row
        name = printable(path)
        text = f"{rank}. {name if len(name) < 20 else '…' + name[-18:]}\n"
        text += f"{printable(label)[:10]} {float(probability):.1%}"
        text += f", {printable(predicted)[:10]}?" if predicted != label else ""
        draw.text((left + 4, top + tile), text, fill="#1f2933", font=font, spacing=2)
    return sheet


# --- Together -------------------------------------------------------------------------------------


def inspect(dataset, classifier=None, output=None):
    """Prints what is there, or with a `runs.Classifier` the photos whose label it disputes.

    output: path of a new folder for photos.csv, or suspects.csv and suspects.png.
    """
    if classifier is None:
        sheet, name, rows = None, "photos.csv", show(dataset)
    else:
        members, probabilities = suspects(classifier, dataset)
        name, rows = "suspects.csv", suspect_rows(dataset, members, probabilities)
        print("\n".join(report.table([[printable(str(cell)) for cell in row]
                                      for row in rows[: 1 + 2 * LINES]], left=5)))
        sheet = contact_sheet(dataset, rows, members) if output else None
    if output:
        with files.atomic_folder(output) as temporary:
            with open(temporary / name, "w", newline="", encoding="utf-8",
                      errors="surrogateescape") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
            if sheet:
                sheet.save(temporary / "suspects.png")
        say(f"All of them:  {printable(output / name)}")
