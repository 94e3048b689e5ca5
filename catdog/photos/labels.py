"""Files of the user that name photos: to leave out, with new labels, or with all labels.

A file of photos to leave out has one name per line. A file of new labels has a name and a class.
`labels.csv` in a folder of photos has the labels of all of them.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from catdog.errors import UserError
from catdog.files import printable, some_names
from catdog.photos.found import Found
from catdog.photos.photo import find_files

logger = logging.getLogger(__name__)

CSV_NAME = "labels.csv"
PHOTO_COLUMNS = ("id", "image", "image_id", "image_name", "img", "file", "filename", "file_name")
PHOTO_COLUMNS += ("path", "photo", "name")
LABEL_COLUMNS = ("label", "class", "breed", "category", "species", "target")


# --- Some photos ----------------------------------------------------------------------------------


def read_names(path: str | os.PathLike | None) -> list[str]:
    """Return the names in a file of photos to leave out, sorted; none if `path` is None.

    One name per line; `#` begins a comment.
    """
    names = {line.split(" #")[0].strip() for line in _lines(path)}
    return sorted(name for name in names if name and not name.startswith("#"))


def read_relabels(path: str | os.PathLike | None) -> dict[str, str]:
    """Return the class of each name in a file of new labels; none if `path` is None.

    Each line has the name of a photo, a tab and a class: both may contain spaces. A line of two
    words may have spaces instead of the tab: `cat.4085 dog`. A line that begins with `#` is a
    comment, and so is what follows ` #` after the class.
    """
    relabels = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, tab, label = line.partition("\t")
        if not tab:
            words = line.split(" #")[0].split()
            name, label = words if len(words) == 2 else ("", "")
        name, label = name.strip(), label.split(" #")[0].strip()
        place = f"{printable(path)}, line {number}"
        if not name or not label or "\t" in label:
            raise UserError(f"{place}: expected a name, a tab and a class, got {line.strip()!r}")
        if relabels.setdefault(name, label) != label:
            raise UserError(
                f"{place}: expected one class for {printable(name)}, got both "
                f"{printable(relabels[name])} and {printable(label)}"
            )
    return relabels


def apply_relabels(found: Found, data_dir: str | os.PathLike, relabels: dict[str, str]) -> Found:
    """Return the photos found in `data_dir` with new labels; warn of names that match none.

    Names and paths stay the same, so that every photo keeps its split. The classes stay the same,
    too: a new label must be one of them.
    """
    classes = {printable(name): i for i, name in enumerate(found.classes)}
    for name, label in relabels.items():
        if printable(label) not in classes:
            raise UserError(
                f"expected one of the classes {some_names(found.classes)} for {printable(name)}, "
                f"got {printable(label)}"
            )
    labels = found.labels.copy()
    for i, names in matching(found, data_dir, relabels):
        new = {printable(relabels[name]) for name in names}
        if len(new) > 1:
            both = " and ".join(sorted(new))
            raise UserError(f"expected one class for {printable(found.paths[i])}, got {both}")
        labels[i] = classes[new.pop()]
    return dataclasses.replace(found, labels=labels)


def matching(
    found: Found, data_dir: str | os.PathLike, wanted: Collection[str]
) -> Iterator[tuple[int, set[str]]]:
    """Yield the number of each photo that is `wanted`, and by which names; warn of other names.

    A photo may be called by what identifies it (`cat.4085`), by its path below the folder of the
    classes (`Cat/4085.jpg`, as in predictions.csv), by its path below `data_dir`, and by these as
    `printable` shows them: a file of one name per line cannot hold a line feed in a name.
    """
    if not wanted:
        return
    wanted, known = set(wanted), set()
    below = found.root.relative_to(data_dir).as_posix()
    for number, (name, path) in enumerate(zip(found.names, found.paths, strict=True)):
        names = {name, path, f"{below}/{path}"}
        if not path.isprintable():
            names |= set(map(printable, names))
        if names := names & wanted:
            known |= names
            yield number, names
    if missing := sorted(wanted - known):
        logger.warning(
            f"{len(missing)} of {len(wanted)} names match no photo: {some_names(missing, 3)}"
        )


def _lines(path):
    if path is None:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from None
    return text.split("\n")  # splitlines() would cut a name at characters such as \x0c


# --- The labels of all photos ---------------------------------------------------------------------


def read_csv_layout(root: str | os.PathLike) -> tuple[list[str], list[str], list[str]] | None:
    """Read the labels in `labels.csv` of a folder.

    The first line tells which columns hold photos (`PHOTO_COLUMNS`) and labels (`LABEL_COLUMNS`;
    of two columns, the other one). A photo is named by its path below the folder or below `train/`
    in it, with or without its ending, as in Kaggle's Dog Breed Identification. Photos that the file
    does not name are left out.

    Returns:
        paths: of each photo, below `root`, with forward slashes, sorted.
        classes: of each photo.
        names: what identifies each photo. It is the path alone, without the class: a corrected
            label must not move the photo to another split.
        None if there is no `labels.csv`, or if its first line tells no columns.
    Raises:
        UserError: a name that leads out of the folder, that matches no photo or several, or that
            comes with two labels; a line without a name or a label.
    """
    path = Path(root, CSV_NAME)
    if not path.is_file():
        return None
    rows = _rows(path)
    _, header = next(rows, (1, []))
    columns = _columns(header)
    if columns is None:
        logger.warning(
            f"{printable(path)} is not taken for labels: expected a first line such as id,label, "
            f"got {printable(','.join(header)[:80])}"
        )
        return None
    photos = _Photos(root)
    label_of, spelling = {}, {}
    for line, row in rows:
        place = f"{printable(path)}, line {line}"
        name, label = (row[i].strip() if i < len(row) else "" for i in columns)
        if not name or not label:
            raise UserError(f"{place}: expected a photo and a label, got {','.join(row)!r}")
        photo, label = photos.find(name, place), printable(label)
        if label_of.setdefault(photo, label) != label:
            raise UserError(
                f"{place}: expected one label for {printable(name)}, got both {label_of[photo]} "
                f"and {label}"
            )
        if spelling.setdefault(label.casefold(), label) != label:
            raise UserError(
                f"{place}: expected one spelling of a label, got both "
                f"{spelling[label.casefold()]} and {label}"
            )
    if unlabelled := photos.beside(label_of):
        logger.warning(
            f"{len(unlabelled):,} photos have no label in {printable(path)} and are left out: "
            f"{some_names(unlabelled, 3)}"
        )
    paths = sorted(label_of)
    return paths, [label_of[photo] for photo in paths], paths.copy()


def _rows(path):
    """Yield the number of the line and the cells of each row that is not empty."""
    text = "\n".join(_lines(path))
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)  # spreadsheet programs write all three
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{printable(path)}, line {reader.line_num}: {error}") from None


def _columns(header):
    """Return which columns hold photos and labels, or None if the header does not tell."""
    names = [cell.strip().lower() for cell in header]
    photos = [i for i, name in enumerate(names) if name in PHOTO_COLUMNS]
    labels = [i for i, name in enumerate(names) if name in LABEL_COLUMNS]
    if len(names) == 2 and len(photos) == 1:
        labels = [1 - photos[0]]
    return (photos[0], labels[0]) if photos and labels else None


class _Photos:
    """The photos below a folder, found by the names that a CSV file gives them."""

    def __init__(self, root):
        self.root, start = root, len(os.path.join(os.fspath(root), ""))
        self.paths = [path[start:].replace(os.sep, "/") for path in find_files(root)]
        self.exact = dict(zip(self.paths, self.paths, strict=True))
        self.without_ending = collections.defaultdict(set)
        for path in self.paths:
            short = path.removeprefix("train/")
            self.exact.setdefault(short, path)
            for name in {path, short}:
                self.without_ending[os.path.splitext(name)[0]].add(path)

    def find(self, name, place):
        """Return the path of a photo below the folder; UserError if it is not clear which."""
        path = PurePosixPath(name.replace("\\", "/"))
        if ".." in path.parts or path.is_absolute() or path.parts[0][1:] == ":":
            raise UserError(
                f"{place}: expected a photo in {printable(self.root)}, got {printable(name)}, "
                "which leads out of it"
            )
        if found := self.exact.get(name) or self.exact.get(str(path)):
            return found
        found = sorted(self.without_ending.get(str(path), ()))
        if len(found) != 1:
            raise UserError(
                f"{place}: expected a photo in {printable(self.root)}, got {printable(name)}, "
                + (f"which may be {' or '.join(map(printable, found))}" if found else "not found")
            )
        return found[0]

    def beside(self, labelled):
        """Return the other photos in the folders of the labelled ones."""
        folders = set(map(os.path.dirname, labelled))
        return [
            path for path in self.paths if path not in labelled and os.path.dirname(path) in folders
        ]
