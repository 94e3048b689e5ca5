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
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from catdog.errors import UserError
from catdog.files import nfc, printable, some_names
from catdog.photos.found import Found
from catdog.photos.photo import PhotoError, read_bytes

logger = logging.getLogger(__name__)

CSV_NAME = "labels.csv"
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "breed", "category", "species", "target")
LABEL_COLUMNS += ("diagnosis", "dx")
SAMPLE = 2000  # rows that tell which column holds photos


# --- Some photos ----------------------------------------------------------------------------------


def read_names(path: str | os.PathLike | None) -> list[str]:
    """Return the names in a file of photos to leave out, sorted; none if `path` is None.

    One name per line, in quotes if it holds any (the rules of CSV) or begins with `#`: such a line
    is a comment.
    """
    return sorted({nfc("\t".join(cells).strip()) for _, cells in _cells(path)} - {""})


def read_relabels(path: str | os.PathLike | None) -> dict[str, str]:
    """Return the class of each name in a file of new labels; none if `path` is None.

    Each line has the name of a photo, a tab and a class: both may contain spaces, and are quoted as
    in `read_names`. A line of two words may have spaces instead of the tab: `cat.4085 dog`.
    """
    relabels = {}
    for number, cells in _cells(path):
        words = cells if len(cells) > 1 else cells[0].split()
        name, label = [nfc(word.strip()) for word in words] if len(words) == 2 else ("", "")
        place = f"{printable(path)}, line {number}"
        if not name or not label:
            got = "\t".join(cells).strip()
            raise UserError(f"{place}: expected a name, a tab and a class, got {got!r}")
        if relabels.setdefault(name, label) != label:
            raise UserError(
                f"{place}: expected one class for {printable(name)}, got both "
                f"{printable(relabels[name])} and {printable(label)}"
            )
    return relabels


def quoted(name: str) -> str:
    """Return a name as a line of these files holds it."""
    if name[:1] in '#"' or any(each in name for each in "\t\r\n"):
        return '"' + name.replace('"', '""') + '"'
    return name


def _cells(path):
    """Yield the number and the cells, with tabs between them, of each line that is no comment."""
    if path is None:
        return
    # splitlines() would cut a name at characters such as \x0c.
    try:
        text = _text(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from None
    lines = (f"{line}\n" for line in text.split("\n"))
    lines = ("\n" if line.lstrip().startswith("#") else line for line in lines)
    reader = csv.reader(lines, delimiter="\t")
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{printable(path)}, line {reader.line_num}: {error}") from None


def apply_relabels(found: Found, data_dir: str | os.PathLike, relabels: dict[str, str]) -> Found:
    """Return the photos found in `data_dir` with new labels; warn of names that match none.

    Names and paths stay the same, so that every photo keeps its split. The classes stay the same,
    too: a new label must be one of them.
    """
    classes = {nfc(printable(name)): i for i, name in enumerate(found.classes)}
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
    wanted, known = set(map(nfc, wanted)), set()
    below = found.root.relative_to(data_dir).as_posix()
    for number, (name, path) in enumerate(zip(found.names, found.paths, strict=True)):
        names = {name, path, f"{below}/{path}"}
        if not path.isascii():
            names |= {nfc(each) for each in names} | {nfc(printable(each)) for each in names}
        elif not path.isprintable():
            names |= set(map(printable, names))
        if names := names & wanted:
            known |= names
            yield number, names
    if missing := sorted(wanted - known):
        logger.warning(
            f"{len(missing)} of {len(wanted)} names match no photo: {some_names(missing, 3)}"
        )


def _text(content):
    """Return text that is in UTF-8, or in UTF-16 as spreadsheet programs write it."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "surrogateescape")
    text = content.decode(*encoding)
    return text.replace("\r\n", "\n")


# --- The labels of all photos ---------------------------------------------------------------------


class NotAList(UserError):
    """A CSV file that is no list of photos and labels, such as a map of classes."""


def read_csv(
    path: str | os.PathLike, photos: Sequence[str]
) -> tuple[dict[str, str], str, list[str]]:
    """Read the labels of photos in a CSV file, as spreadsheet programs and competitions write it.

    The column that names most photos holds the photos. The label's is one of `LABEL_COLUMNS`, or
    the only other one, or the only other one whose words repeat; or there is one column of 0 and 1
    for each class. The first line is a header unless it names a photo. `_Photos.find` says how a
    photo may be named. Photos that the file does not name are left out, and so are names that match
    no photo.

    Args:
        path: of the file.
        photos: paths below the folder of the file, with forward slashes.
    Returns:
        The label of each photo by its path, words that say what was understood, and notes on what
        is left out.
    Raises:
        NotAList: too few of the rows name a photo, or no column holds labels.
        UserError: a row without a label, or whose photo or label is not clear.
    """
    place = printable(path)
    rows, index = _rows(path), _Photos(path, photos)
    column, header, rows = _photo_column(rows, index, place)
    label_of_row, words = _label_column(header, rows, column, place)
    missing, label_of, spelling, clear, problem = [], {}, {}, 0, None
    clean = functools.cache(lambda label: nfc(printable(label)))
    for line, row in rows:
        name, label = _cell(row, column), clean(label_of_row(row))
        matches = index.find(name)
        clear += len(matches) == 1
        if ".." in name and ".." in re.split(r"[\\/]", name):
            folder = printable(Path(path).absolute().parent.name)
            wanted, got = f"a photo in {folder}", f"{printable(name)}, which leads out of it"
        elif name and not matches:
            missing.append(name)
            continue
        elif not name or not label:
            wanted, got = "a photo and a label", repr(",".join(row))
        elif len(matches) > 1:
            wanted = "the name of one photo"
            got = f"{printable(name)}, which may be {' or '.join(map(printable, matches[:2]))}"
        elif label_of.setdefault(matches[0], label) != label:
            wanted = f"one label for {printable(name)}"
            got = f"both {label_of[matches[0]]} and {label}"
        elif spelling.setdefault(label.casefold(), label) != label:
            wanted = "one spelling of a label"
            got = f"both {spelling[label.casefold()]} and {label}"
        else:
            continue
        problem = problem or f"{place}, line {line}: expected {wanted}, got {got}"
    if 2 * clear < len(rows):
        raise NotAList(f"{place}: expected names of photos, got {_example(rows, column)}")
    if problem:
        raise UserError(problem)
    if len(spelling) == len(label_of) < len(photos) / 10:
        raise NotAList(f"{place}: expected several photos with the same label, got one of each")
    folders = set(map(os.path.dirname, label_of))
    beside = [p for p in photos if p not in label_of and os.path.dirname(p) in folders]
    notes = [
        f"{len(names):,} {what}: {some_names(names, 3)}"
        for names, what in (
            (missing, f"names in {place} match no photo and are left out"),
            (beside, f"photos have no label in {place} and are left out"),
        )
        if names
    ]
    words = f"labels from {place} ({_named(header, column)} names the photo, {words})"
    return label_of, words, notes


def _rows(path):
    """Return the number of the line and the cells of each row that is not empty."""
    try:
        text = _text(read_bytes(path))
    except PhotoError as error:
        raise NotAList(f"{printable(path)}: {error}") from None
    if re.search("[\udc80-\udcff]", text):  # not UTF-8: a spreadsheet on Windows
        text = text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    first, _, rest = text.partition("\n")
    delimiter = max(",;\t|", key=first.count)
    if first.lower().startswith("sep="):  # what spreadsheet programs write above the table
        delimiter, text = first.strip()[4:5] or ",", "\n" + rest
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (csv.Error, TypeError) as error:
        raise NotAList(f"{printable(path)}, line {reader.line_num}: {error}") from None


def _photo_column(rows, index, place):
    """Return which column names the photos, the header or None, and the rows without it."""
    named = [set() for _ in range(max((len(row) for _, row in rows), default=0))]
    for _, row in rows[:SAMPLE]:
        for column, cell in enumerate(row):
            named[column].update(index.find(cell.strip()))
    column = max(range(len(named)), key=lambda each: len(named[each]), default=0)
    if len(named) < 2 or not named[column]:
        raise NotAList(f"{place}: expected names of photos and labels, got {_example(rows, 0)}")
    has_header = not index.find(_cell(rows[0][1], column))
    return column, rows[0][1] if has_header else None, rows[has_header:]


def _label_column(header, rows, column, place):
    """Return a function of a row that returns its label, and words that name the column."""
    columns = [each for each in range(max(len(row) for _, row in rows)) if each != column]
    words = {each: {_cell(row, each) for _, row in rows} for each in columns}
    ones = [each for each in columns if header and words[each] <= {"0", "1", "0.0", "1.0"}]
    known = [each for each in columns if _cell(header or (), each).lower() in LABEL_COLUMNS]
    is_one_hot = not known and len(ones) > 1 and len(header) > max(ones)
    if is_one_hot and all(sum(float(row[each]) for each in ones) == 1 for _, row in rows):
        said = f"{len(ones)} columns of 0 and 1 the label"
        return lambda row: header[next(each for each in ones if float(row[each]))].strip(), said
    possible = known[:1] or columns
    for is_label in (
        lambda words: 1 < len(words) < len(rows),
        lambda words: not all(re.fullmatch(r"[-+\d.,eE]*", word) for word in words),
        lambda words: len(words) <= len(rows) / 2,
    ):
        if len(possible) > 1:
            possible = [each for each in possible if is_label(words[each])]
    if len(possible) != 1:
        names = some_names([_named(header, each) for each in columns])
        raise NotAList(f"{place}: expected a column named label, got {names}")
    return lambda row: _cell(row, possible[0]), f"{_named(header, possible[0])} the label"


def _cell(row, column):
    return row[column].strip() if column < len(row) else ""


def _named(header, column):
    return f"column {printable(_cell(header or (), column)) or column + 1}"


def _example(rows, column):
    return some_names([_cell(row, column) for _, row in rows[:3]]) or "nothing"


class _Photos:
    """The photos below the folder of a CSV file, found by the names that the file gives them."""

    def __init__(self, path, photos):
        self.parents = [*map(nfc, Path(path).absolute().parent.parts)]
        self.paths, self.exact = photos, set(photos)

    @functools.cached_property
    def loose(self):
        """The paths that a name in small letters may mean."""
        loose = collections.defaultdict(list)
        for path in self.paths:
            folded = nfc(path).casefold()
            for key in {folded, folded.removeprefix("train/"), folded.rpartition("/")[2]}:
                loose[key].append(path)
                loose[os.path.splitext(key)[0]].append(path)
        return loose

    def find(self, name):
        """Return the paths of the photos that a name may mean.

        It is a path below the folder or below train/ in it, or the mere name of a photo in any
        folder; the ending may be missing, or be in capitals. In front may be names of the folders
        above, or, of an absolute path, any folders: the file may come from another machine.
        """
        if name in self.exact:
            return [name]
        name = nfc(name.replace("\\", "/"))
        parts = [part for part in name.split("/") if part not in ("", ".")]
        is_absolute = name[:1] == "/" or name[1:3] == ":/"
        for start in range(len(parts)):
            if start and not is_absolute and parts[:start] != self.parents[-start:]:
                continue
            path = "/".join(parts[start:])
            if found := self.loose.get(path.casefold()):
                return self.best(sorted({*found}), path)
        return []

    def best(self, found, path):
        """Return those that are named most exactly so."""
        for is_better in (
            lambda each: each == path,
            lambda each: each == f"train/{path}",
            lambda each: os.path.splitext(each.removeprefix("train/"))[0] == path,
            lambda each: nfc(each).endswith(path),
            lambda each: os.path.dirname(each) in ("", "train"),
        ):
            found = [each for each in found if is_better(each)] or found
        return found
