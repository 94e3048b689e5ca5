"""Files of the user that name photos: to leave out, with new labels, or with all labels.

A file of photos to leave out has one name per line. A file of new labels has a name and a class.
`labels.csv` in a folder of photos has the labels of all of them.
"""

from __future__ import annotations

import codecs
import collections
import csv
import dataclasses
import functools
import io
import itertools
import logging
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from catdog.errors import UserError
from catdog.files import counted, nfc, printable, some_names
from catdog.photos.found import Found, split_of
from catdog.photos.photo import PhotoError, read_bytes

logger = logging.getLogger(__name__)

CSV_NAME = "labels.csv"
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "breed", "category", "species", "target")
LABEL_COLUMNS += ("diagnosis", "dx", "choice")
SAMPLE = 2000  # rows that are read to find the column of photos
# Common marks of a missing value. A class may be called "none".
MISSING = {"nan", "NaN", "NAN", "NA", "<NA>", "#N/A", "N/A", "n/a", "null", "NULL", "None", "?"}


# --- Some photos ----------------------------------------------------------------------------------


def read_names(path: str | os.PathLike | None) -> list[str]:
    """Return the names in a file of photos to leave out, sorted; none if `path` is None.

    One name per line. A line that begins with `#` is a comment. A name that begins with `#` or with
    a quotation mark is quoted as in CSV.
    """
    return sorted({nfc("\t".join(cells).strip()) for _, cells in _cells(path)} - {""})


def read_relabels(path: str | os.PathLike | None) -> dict[str, str]:
    """Return the class of each name in a file of new labels; none if `path` is None.

    Each line has the name of a photo, a tab and a class. Names and classes may contain spaces and
    are quoted as in `read_names`. Two words may have spaces between them: `cat.4085 dog`.
    """
    relabels = {}
    for number, cells in _cells(path):
        words = cells if len(cells) > 1 else cells[0].split()
        name, label = [nfc(word.strip()) for word in words] if len(words) == 2 else ("", "")
        place = f"{path}, line {number}"
        if not name or not label:
            got = "\t".join(cells).strip()
            raise UserError(f"{place}: expected a name, a tab and a class, got {got!r}")
        if relabels.setdefault(name, label) != label:
            raise UserError(
                f"{place}: expected one class for {name}, got both {relabels[name]} and {label}"
            )
    return relabels


def quoted(name: str) -> str:
    """Return a name as a line of these files holds it."""
    if name[:1] in '#"' or any(each in name for each in "\t\r\n"):
        return '"' + name.replace('"', '""') + '"'
    return name


def _cells(path):
    """Yield the number and the cells, with tabs between them, of each line that is no comment."""
    if path is not None:
        # splitlines() would cut a name at characters such as \x0c.
        lines = (f"{line}\n" for line in _text(path).split("\n"))
        lines = ("\n" if line.lstrip().startswith("#") else line for line in lines)
        yield from _parsed(path, lines, "\t")


def relabelled(found: Found, data_dir: str | os.PathLike, relabels: dict[str, str]) -> np.ndarray:
    """Return the labels of the photos found in `data_dir`, some of them new: int (n,).

    A new label must be one of the classes. Warns of names that match no photo.
    """
    classes = {nfc(printable(name)): i for i, name in enumerate(found.classes)}
    for name, label in relabels.items():
        if printable(label) not in classes:
            raise UserError(
                f"expected one of the classes {some_names(found.classes)} for {name}, got {label}"
            )
    labels = found.labels.copy()
    for i, names in matching(found, data_dir, relabels):
        new = {printable(relabels[name]) for name in names}
        if len(new) > 1:
            both = " and ".join(sorted(new))
            raise UserError(f"expected one class for {found.paths[i]}, got {both}")
        labels[i] = classes[new.pop()]
    return labels


def matching(
    found: Found, data_dir: str | os.PathLike, wanted: Collection[str]
) -> Iterator[tuple[int, set[str]]]:
    """Yield the index and the `wanted` names of each photo that has one; warn of other names.

    A photo may be called by what identifies it (`cat.4085`), by its path below the folder of the
    classes (`Cat/4085.jpg`, as in predictions.csv), by its path below `data_dir`, and by these as
    `printable` shows them: a file of one name per line cannot hold a line feed in a name.
    """
    wanted, known = set(map(nfc, wanted)), set()
    below = found.root.relative_to(data_dir).as_posix()
    for number, (name, path) in enumerate(zip(found.names, found.paths, strict=True)):
        names = {name, path, f"{below}/{path}"}
        if not (path.isascii() and path.isprintable()):
            names |= {nfc(form(each)) for each in names for form in (str, printable)}
        if names := names & wanted:
            known |= names
            yield number, names
    if missing := sorted(wanted - known):
        logger.warning(
            f"{len(missing)} of {len(wanted)} names match no photo: {some_names(missing, 3)}"
        )


# --- Text and cells -------------------------------------------------------------------------------


class NotAList(UserError):
    """A file that cannot be read, or is no list of photos, such as a map of classes."""


def _text(path):
    """Return text that is in UTF-8, or in UTF-16 as spreadsheet programs write it."""
    try:
        content = read_bytes(path)
    except PhotoError as error:
        raise NotAList(f"cannot read {path}: {error}") from None
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "surrogateescape")
    encoding = ("utf-16-le", "replace") if content[1:2] == b"\0" else encoding
    return content.decode(*encoding).replace("\r\n", "\n")


def _parsed(path, lines, delimiter):
    """Yield the number and the cells of each line that is not empty."""
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise NotAList(f"{path}, line {reader.line_num}: {error}") from None


# --- The labels of all photos ---------------------------------------------------------------------


@dataclasses.dataclass
class Table:
    """What a CSV file says of photos, by their paths below its folder."""

    labels: dict[str, str]
    splits: dict[str, int]  # indices into `SPLITS`; empty if no column says it
    how: str  # which columns were understood
    notes: list[str]  # what is left out
    is_sure: bool  # whether the column of labels has one of the names in `LABEL_COLUMNS`


class _Columns(NamedTuple):
    """What stands in which column."""

    header: list[str]
    photo: int
    labels: list[int]  # one, or one of 0 and 1 for each class
    split: int | None

    def label(self, row):
        if len(self.labels) == 1:
            return row[self.labels[0]]
        return self.header[next(each for each in self.labels if float(row[each]))]

    def __str__(self):
        photo, label = (_named(self.header, each) for each in (self.photo, self.labels[0]))
        label = label if len(self.labels) == 1 else f"{len(self.labels)} columns of 0 and 1"
        split = "" if self.split is None else f", {_named(self.header, self.split)} the split"
        return f"{photo} names the photo, {label} the label{split}"


def read_csv(path: str | os.PathLike, photos: Sequence[str]) -> Table:
    """Read the labels of photos in a CSV file, as spreadsheet programs and competitions write it.

    1. The column that names most photos holds the photos, see `_photo_column`. The first line is a
       header unless it names a photo.
    2. A column that holds nothing but names of splits is the split.
    3. For the label see `_label_columns`.
    4. Rows that do not name exactly one photo and a label are left out, and so are photos that no
       row names.

    Args:
        path: the CSV file.
        photos: paths below the folder of the file, with forward slashes.
    Raises:
        NotAList: too few of the rows name a photo, or no column holds labels.
        UserError: a photo has two labels, a label two spellings, or the encoding is unknown.
    """
    rows, is_utf = _rows(path)
    known = _Photos(path, photos)
    columns, rows = _columns(rows, known, path)
    labels, splits, left_out, named, contrary = {}, {}, [], set(), ""
    for line, row in rows:
        meant = known.find(row[columns.photo])
        label = nfc(printable(columns.label(row)))
        named.update(meant)
        if len(meant) != 1 or not label:
            left_out.append(row[columns.photo] or ",".join(row))
            continue
        photo = meant[0]
        if columns.split is not None:
            splits[photo] = split_of(row[columns.split])
        if (other := labels.setdefault(photo, label)) != label and not contrary:
            got = f"got both {other} and {label}"
            contrary = f", line {line}: expected one label for {photo}, {got}"
    if 2 * len(left_out) > len(rows):
        raise _no_names(path, photos, rows, columns.photo)
    classes = {*labels.values()}
    if wrong := _misspelled(classes, is_utf) or contrary:
        raise UserError(f"{path}{wrong}")
    if len(classes) == len(labels) < len(photos) / 10:
        raise NotAList(f"{path}: expected several photos with the same label, got one of each")
    beside = [photo for photo in photos if photo not in named]
    notes = []
    for each, noun, lack in ((left_out, "row", "a photo or a label"), (beside, "photo", "a row")):
        if each:
            what = f"{counted(len(each), noun)} without {lack}"
            notes.append(f"{path}: left out {what}: {some_names(each, 3)}")
    encoding = "" if is_utf else "; read as Windows-1252, as it is not UTF-8"
    is_sure = columns.header[columns.labels[0]].lower() in LABEL_COLUMNS
    return Table(labels, splits, f"labels from {path} ({columns}{encoding})", notes, is_sure)


def _misspelled(labels, is_utf):
    """Return what is wrong with labels as they are written; nothing if all is well."""
    # Read as Windows-1252, labels that are mostly accented letters were in another encoding.
    for label in sorted(labels) if not is_utf else ():
        if 2 * sum(letter > "\x7f" for letter in label) >= len(label):
            return f": expected text in UTF-8, got labels such as {label}"
    spelled = {label.casefold(): label for label in sorted(labels)}
    for label in sorted(labels - {*spelled.values()}):
        both = f"{label} and {spelled[label.casefold()]}"
        return f": expected one spelling of a label, got both {both}"
    return ""


def _rows(path):
    """Return (rows, is_utf): whether the text is in UTF-8 or UTF-16.

    A row is the number of its line and its cells. Empty rows are left out; all have equally many
    cells.
    """
    text = _text(path)
    if not (is_utf := not re.search("[\udc80-\udcff]", text)):  # a spreadsheet on Windows
        text = text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    first, _, rest = text.partition("\n")
    delimiter = max(",;\t|", key=first.count)
    if first.lower().startswith("sep="):  # what spreadsheet programs write above the table
        text = "\n" + rest
    rows = [
        (line, ["" if (cell := each.strip()) in MISSING else cell for each in cells])
        for line, cells in _parsed(path, io.StringIO(text, newline=""), delimiter)
    ]
    width = max((len(row) for _, row in rows), default=0)
    return [(line, row + [""] * (width - len(row))) for line, row in rows if any(row)], is_utf


def _columns(rows, names, path):
    """Return what stands in which column, and the rows without the header."""
    photo = _photo_column(rows, names, path)
    header = rows[0][1]
    if names.find(header[photo]):
        header = [""] * len(header)
    else:
        rows = rows[1:]
    words = {each: {row[each] for _, row in rows} for each in range(len(header)) if each != photo}
    splits = [each for each in words if len(words) > 1 and _are_splits(words[each])]
    labels = _label_columns(header, rows, {x: words[x] for x in words if x not in splits}, path)
    return _Columns(header, photo, labels, splits[0] if splits else None), rows


def _photo_column(rows, names, path):
    """Return which column names the photos.

    A column of names with endings wins over one of names without, such as row numbers.
    """

    def photo(cell):
        meant = names.find(cell)
        return meant[0] if len(meant) == 1 else None

    columns = list(zip(*(row for _, row in rows[:SAMPLE]), strict=True))
    photos = [[photo(cell) for cell in cells] for cells in columns]
    named = [len({*each} - {None}) for each in photos]
    if len(named) < 2 or not max(named):
        raise _no_names(path, names.photos, rows, 0)
    whole = [
        len({photo for cell, photo in zip(*each, strict=True) if photo and _ends(photo, cell)})
        for each in zip(columns, photos, strict=True)
    ]
    named = whole if 2 * max(whole) > max(named) else named
    column = named.index(max(named))
    others = [each for each in range(len(named)) if 2 * named[each] > named[column]]
    pairs = (zip(photos[each], photos[column], strict=True) for each in others)
    if any(other and own and other != own for each in pairs for other, own in each):
        got = some_names([_named(rows[0][1], each) for each in others])
        raise NotAList(f"{path}: expected one column that names photos, got {got}")
    return column


def _ends(photo, cell):
    """Return whether a cell names a photo with its ending."""
    return photo.casefold().endswith(re.split(r"[/\\]", cell)[-1].casefold())


def _are_splits(words):
    return all(split_of(word) is not None for word in words) and len({*map(split_of, words)}) > 1


def _label_columns(header, rows, words, path):
    """Return the column of labels, or the columns of 0 and 1, one for each class.

    It is the column called label, or else one of `LABEL_COLUMNS`, or else the only one whose words
    repeat and are no measured numbers. A column that numbers the classes of another column does not
    count.

    Args:
        words: what is in each column that may hold labels.
    """
    called = {each: header[each].lower() for each in words}
    known = [each for each in words if called[each] in ("label", "labels")]
    known = known or [each for each in words if called[each] in LABEL_COLUMNS]
    ones = [each for each in words if header[each] and words[each] <= {"0", "1", "0.0", "1.0"}]
    is_one_hot = all(sum(float(row[each]) for each in ones) == 1 for _, row in rows)
    if not known and len(ones) > 1 and is_one_hot:
        return ones
    possible = known or [*words]
    for is_label in (
        lambda cells: 1 < len(cells - {""}) < len(rows),
        lambda cells: not _are_numbers(cells) or _are_class_numbers(cells - {""}),
        lambda cells: len(cells) <= len(rows) / 2,
    ):
        if len(possible) > 1:
            possible = [each for each in possible if is_label(words[each])]
    possible.sort(key=lambda each: _are_numbers(words[each]))
    for each in possible[1:]:
        pairs = {(row[possible[0]], row[each]) for _, row in rows}
        if _are_numbers(words[each]) and len(pairs) == len(words[possible[0]]) == len(words[each]):
            possible.remove(each)
    if len(possible) != 1:
        got = some_names([_named(header, each) for each in possible or words])
        raise NotAList(f"{path}: expected a column named label, got {got}")
    return possible


def _are_numbers(words):
    return all(re.fullmatch(r"[-+\d.,eE]*", word) for word in words)


def _are_class_numbers(words):
    """Return whether these are 0, 1, 2 ... or 1, 2 ..., without a gap."""
    words = {word.removesuffix(".0") for word in words}
    return any(words == {*map(str, range(start, start + len(words)))} for start in (0, 1))


def _named(header, column):
    return f"column {header[column] or column + 1}"


def _no_names(path, photos, rows, column):
    got = some_names([row[column] for _, row in rows[:3]]) or "nothing"
    like = f" such as {photos[0]}" if photos else ""
    return NotAList(f"{path}: expected names of photos{like} and labels, got {got}")


class _Photos:
    """The photos below the folder of a CSV file, found by the names that the file gives them.

    A name and the path of a photo are compared from their ends. They match if nothing is left of
    the name, if the rest names the folders above the CSV file, or if the name is absolute: the file
    may come from another machine. The ending may be missing, and capitals do not matter.
    """

    def __init__(self, path, photos):
        self.here = nfc(Path(path).absolute().parent.as_posix())
        self.above = self.here.casefold().split("/")
        self.photos, self.exact = photos, set(photos)
        self.find = functools.cache(self._find)

    @functools.cached_property
    def called(self):
        """The photos by name and by folder and name, in small letters, with and without ending."""
        called = collections.defaultdict(list)
        for photo in self.photos:
            parts = nfc(photo).casefold().split("/")
            for key in {parts[-1], "/".join(parts[-2:])}:
                called[key].append(photo)
                called[os.path.splitext(key)[0]].append(photo)
        return called

    def _find(self, name):
        """Return the photos that a name may mean: those that match it best."""
        if name in self.exact:
            return [name]
        spelled = posixpath.normpath(nfc(name.replace("\\", "/")))
        if spelled.startswith("../"):
            spelled = posixpath.relpath(posixpath.join(self.here, spelled), self.here)
        *folders, last = spelled.casefold().split("/")
        scores = {}
        for photo in self.called.get("/".join([*folders[-1:], last]), ()):
            own = nfc(photo).casefold().split("/")[:-1]
            pairs = zip(reversed(own), reversed(folders), strict=False)
            same = len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)])
            if self.may_precede(folders[: len(folders) - same]):
                is_spelled_so = "/".join(spelled.split("/")[-same - 1 :]) in nfc(photo)
                scores[photo] = same, is_spelled_so, os.path.dirname(photo) in ("", "train")
        if not scores and folders and self.may_precede(folders):
            return self.find(spelled.rpartition("/")[2])
        best = max(scores.values(), default=None)
        return [photo for photo, score in scores.items() if score == best]

    def may_precede(self, folders):
        """Return whether folders may stand before the path of a photo."""
        if not folders or folders[0] == "" or folders[0].endswith(":"):  # of a drive or an address
            return True
        return folders == self.above[-len(folders) :]
