"""Finds labelled photos: which files, of which class, in which split. One rule for all layouts.

1. Leading folders that all photos share are left out (`archive/dataset/...`, `train/train/...`).
   If one of several folders is a data set by itself (classes in splits, Kaggle's `train/`,
   `PetImages/`, `images/`), the others are left out. Several data sets are refused, and so are
   folders that hold the same class folders, if they are parts or copies of one data set.
2. If folders of the next level are named like splits (train, training_set, val, test ...) and hold
   labelled photos, they are the split.
3. Labels come from the first of these that fits: a file `labels.csv` (read before rule 2); names
   or a CSV file, if folders are only numbered (`batch1`, `batch2`); folders of the next level, one
   per class; another CSV file; names (`cat.7`, `Abyssinian_12`).

Warnings say what is left out, and `Found.summary` says what the rule did.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from catdog.errors import UserError
from catdog.files import counted, nfc, printable, some_names
from catdog.photos import labels as label_files
from catdog.photos.drawings import SETTINGS as DEMO
from catdog.photos.found import MOST_CLASSES, SPLITS, Found, split_of
from catdog.photos.photo import SUFFIXES, walk

logger = logging.getLogger(__name__)

UNLABELLED = {"test1"}  # Kaggle's photos to be labelled
KAGGLE_NAME = re.compile(r"(cat|dog)\.(\d+)\.\w+", re.IGNORECASE)
# A label and numbers: cat_7, cat (7), american_bulldog_12; cat7 only without other digits.
LABEL_NAME = re.compile(
    r"(?:(.*?[^\W\d_].*?)(?:[\s._-]*\(\d+\)|[\s._-]+\d+)+|([^\W\d_]+)\d+)(?:\.\w+)?"
)
# Folders that hold all photos of a data set. Masks may lie in folders beside them.
IMAGES = {"images", "image", "imgs", "img", "jpegimages"}
# Folders that hold the same classes once more.
COPIES = {"original", "originals", "augmented", "raw", "processed", "preprocessed", "resized"}
COPIES |= {"cropped", "segmented", "color", "colored", "grayscale", "clean", "old", "new", "data"}
# Cameras and programs name their pictures so, whatever they show.
NO_LABELS = {"img", "image", "images", "dsc", "dscn", "dscf", "p", "pic", "picture", "photo", "pxl"}
NO_LABELS |= {"mvimg", "frame", "file", "scan", "screenshot", "wp", "gopr", "dji", "untitled"}
# Hidden folders of programs, which are left out without a word.
TOOLS = {".ipynb_checkpoints", ".git", ".cache", ".thumbnails", ".thumbs", ".trash"}
# Names that are probably not those of classes: a note says so.
PROJECT = {"demo", "cache", "runs", "results", "output", "outputs", "plots", "venv", "models"}
PROJECT |= {"masks", "annotations", "segmentations", "labels"}
MASK = re.compile(r"(.+)[ _-](?:mask|seg|gt)(?:_\d+)?\.\w+")  # benign (1)_mask.png
# A folder with one of these sets of files is not the user's: drawings, a run, a Python environment.
MARKS = ({DEMO}, {"config.json", "history.csv"}, {"pyvenv.cfg"})
WAYS = "labels are folders (one per class), names such as cat_7.jpg, or labels.csv"


class NoPhotos(UserError):
    """A folder without labelled photos."""


def find(
    data_dir: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    classes: Sequence[str] = (),
) -> Found:
    """Find the labelled photos under `data_dir`, by the rule at the top of this file.

    Args:
        cache_dir: folder of decoded photos, which is left out.
        classes: the classes of a network that will score the photos. They become the classes of
            the result; some may have no photos.
    Raises:
        NoPhotos: no photo has a label.
        UserError: a folder cannot be read, has no photos of its class, or is ambiguous; or there
            are too few or too many classes, or others than `classes`.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"expected a folder, got {data_dir}")
    try:
        return _Finder(data_dir, cache_dir, classes).find()
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


# --- Folders --------------------------------------------------------------------------------------


class _Folder:
    """A folder and what lies in it. Paths are relative to the data folder."""

    def __init__(self, path, photos, others, keep):
        self.path, self.name = path, path.rpartition("/")[2]
        self.start = len(path) + 1 if path else 0  # length of the prefix of its photos' paths
        inside = f"{path}/" if path else ""
        self.is_marked = path and any(mark <= {*others} for mark in MARKS)
        self.photos = [] if self.is_marked else [inside + name for name in photos]
        self.others = others
        self.folders = []  # directly in it
        self.below = [self]  # itself, and all folders below it in the order of `walk`
        self.key = class_name(self.name).casefold()
        self.split = None if self.key in keep else split_of(self.name)

    @functools.cached_property
    def filled(self):
        """The folders in it that hold photos, at any depth."""
        return [each for each in self.folders if any(inner.photos for inner in each.below)]

    def paths(self):
        return [path for each in self.below for path in each.photos]

    def endings(self):
        """Return the number of files that are no photos, by ending."""
        ends = (os.path.splitext(name)[1].lower() for each in self.below for name in each.others)
        return dict(collections.Counter(ends).most_common())


def _list(data_dir, cache_dir=None, keep=()):
    """Return the data folder; raise OSError if it, or one below it, cannot be listed."""

    def fail(error):
        raise error

    top, listed = os.fsdecode(data_dir), {}
    for path, photos, others in walk(top, fail, cache_dir):
        path = path[len(os.path.join(top, "")) :].replace(os.sep, "/")
        parent = listed.get(path.rpartition("/")[0])
        if path and (parent is None or parent.is_marked):
            continue
        listed[path] = _Folder(path, photos, others, keep)
        if path:
            parent.folders.append(listed[path])
    for folder in reversed(listed.values()):
        for child in folder.folders:
            folder.below += child.below
    return listed[""]


@dataclasses.dataclass
class _Part:
    """Labelled photos in a folder."""

    kind: str  # folders, csv or names
    folder: _Folder
    how: str  # where their labels come from
    rows: list[tuple[str, str, str]]  # path, class and identity of each photo
    notes: list[str]  # warnings to print if this part is used
    splits: list[int] | None = None  # the split of each photo, if a CSV file says it

    @functools.cached_property
    def classes(self):
        return {member for _, member, _ in self.rows}


# --- The rule -------------------------------------------------------------------------------------


class _Finder:
    """Applies the rule to one data folder. Methods that find no labels return None."""

    def __init__(self, data_dir, cache_dir, classes):
        self.root, self.classes = Path(data_dir), [class_name(name) for name in classes]
        self.keep = {name.casefold() for name in self.classes}  # such folders are never left out
        self.top, self.notes = _list(data_dir, cache_dir, self.keep), []
        self.complaints = {}  # by file name: errors of CSV files that are no lists of photos

    def find(self):
        passed = self.passed = self.strip(self.top)
        while True:  # a whole data set may lie beside other folders, which are left out
            home = passed[-1]
            if part := self.by_csv(passed, label_files.CSV_NAME):
                return self.found({0: part}, home)
            if parts := self.by_split(home):
                return self.found(parts, home)
            if not (inner := self.set_in(home)):
                break
            passed += inner
        part = self.label(passed)
        if not part and len(passed) > 1 and len(passed[-2].filled) == 1:
            part = self.by_folder(passed[-2])  # one class, which `found` may refuse
        if not part:
            ways = self.ways(passed)
            raise NoPhotos(f"expected labelled photos in {self.root}, {self.got(home)}; {ways}")
        return self.found({0: part}, home)

    def ways(self, passed):
        """Return where labels may be, and what was wrong with a CSV file."""
        beside = [name for folder in passed for name in folder.others if self.top.paths()]
        there = [f"beside the photos: {some_names(beside, 3)}"] if beside else []
        return "; ".join([WAYS, *map(str, [*self.complaints.values(), *there][:1])])

    def got(self, home):
        """Return what there is instead of labelled photos."""
        if paths := home.paths():
            labels = {path: _label_in_name(path) for path in paths}
            if odd := next((path for path in paths if not labels[path]), None):
                return f"got photos such as {odd} without"
            said = some_names(sorted({*labels.values()}))
            return f"got photos such as {paths[0]}, whose names say only {said}"
        kinds = [f"{end or 'no ending'}: {n:,}" for end, n in self.top.endings().items()]
        return f"got other files ({some_names(kinds)})" if kinds else "got an empty folder"

    def place(self, folder):
        return self.root / folder.path

    # 1. Leading folders

    def strip(self, folder, known=frozenset()):
        """Return the folder and the chain of folders below it that each hold all its photos.

        The chain ends before a folder in `keep` or `known`, which is a class.
        """
        passed = [folder]
        while not folder.photos and len(folder.filled) == 1:
            (folder,) = folder.filled
            if folder.key in self.keep | known:
                break
            passed.append(folder)
        return passed

    def set_in(self, home):
        """Return the folders that lead to the data set in a folder, if others lie beside it."""
        twins, names = self.twins(home)
        sets = [x for x in home.filled if self.is_set(x, home, x in twins)] or twins
        what = f" with folders of the same names ({some_names(names)})" if names else ""
        if sets is twins and not self.are_copies(twins, names):
            note = f"taken for classes: {_names(sets)},{what}"
            self.notes += [note] if sets and note not in self.notes else []
            return []
        if len(sets) > 1:
            raise UserError(
                f"expected one folder per class in {self.place(home)}, got {_names(sets)}{what}"
                "; use one of them, or move the photos of each class into one folder"
            )
        self.notes += self.left_out(home, sets) if sets else []
        return self.strip(sets[0]) if sets else []

    def twins(self, home):
        """Return the folders in a folder that hold folders of the same names, and these names.

        A class may hold numbered folders, such as one per year, if it is not numbered itself.
        """
        ends = {each: self.strip(each)[-1] for each in home.filled if each.key not in self.keep}
        inner = {each: {x.key for x in end.filled} for each, end in ends.items() if not end.photos}
        inner = {each: names for each, names in inner.items() if len(names) > 1}
        is_numbered, shared = len(_without_numbers(x.key for x in home.filled)) == 1, {}
        for first, second in itertools.combinations(inner, 2):
            names = inner[first] & inner[second]
            if len(names) > 1 and (is_numbered or len(_without_numbers(names)) > 1):
                shared |= {first: names, second: names}
        return [*shared], sorted(set().union(*shared.values()))

    def are_copies(self, twins, names):
        """Return whether twins are parts or copies: their names, or those in them, say so."""
        outer = _without_numbers(each.key for each in twins)
        inner = {split_of(name) is not None or name in IMAGES | PROJECT for name in names}
        return len(outer) < len(twins) or not outer.isdisjoint(COPIES) or True in inner

    def is_copy(self, folder, home):
        """Return whether a folder is a copy: it holds the class folders that lie beside it."""
        inner = {each.key for each in self.strip(folder)[-1].filled}
        return folder.key not in self.keep and len(inner & {each.key for each in home.filled}) > 1

    def is_set(self, folder, home, is_twin):
        """Return whether a folder in `home` holds a data set.

        That is: classes in splits, Kaggle's or Microsoft's photos, or those to which masks beside
        them belong.
        """
        *passed, last = self.strip(folder)
        splits = {2 if x.name.lower() in UNLABELLED else x.split for x in last.filled} - {None}
        name = last.photos[0][last.start :] if last.photos else ""
        is_kaggles = passed and last.split == 0 and KAGGLE_NAME.fullmatch(name)
        keys = {each.key for each in (*passed, last)}
        is_named = "petimages" in keys or (keys if is_twin else {folder.key}) & IMAGES
        if is_named and not (last.filled or {x.key for x in home.filled} <= IMAGES | PROJECT):
            is_named = self.label([last])  # without labels, it is a class
        return folder.key not in self.keep and bool(splits > {0} or is_kaggles or is_named)

    # 2. Splits

    def by_split(self, home):
        """Return the photos of each split, by index into `SPLITS`, if folders are named so."""
        named = [each for each in home.filled if each.split is not None]
        named.sort(key=lambda each: each.split)
        # `strip` would skip a class that is alone in its split. `known` are those of other splits.
        ends = [self.strip(each)[-1].filled for each in named]
        known = {each.key for end in ends for each in end if len(end) > 1}
        ways = {each: self.strip(each, known) for each in named}
        ways = {each: [*passed, *self.set_in(passed[-1])] for each, passed in ways.items()}
        taken = {each: part for each in named if (part := self.label(ways[each]))}
        first = next(iter(taken.values()), None)
        # Drop splits that share no class with the first, such as test photos without labels.
        classes = self.classes or (first and first.classes)
        taken = {k: v for k, v in taken.items() if not v.classes.isdisjoint(classes)}
        parts = {folder.split: part for folder, part in taken.items()}
        has_train = not parts or 0 in parts or self.keep
        # Without training photos, folders named test or val beside others are no splits.
        if not has_train and len(named) < len(home.filled):
            return {}
        if not has_train or len(parts) < len(taken):
            raise UserError(
                "expected a folder of training photos and one folder for each split in "
                f"{self.place(home)}, got {_names(taken)}"
            )
        self.notes += self.left_out(home, taken) if parts else []
        return parts

    # 3. Classes

    def label(self, passed):
        """Return the photos below the last folder with what folders, CSV or names say."""
        home = passed[-1]
        if part := self.in_batches(passed) or self.by_folder(home):
            return part
        return self.by_csv(passed) or self.by_name(home, home.photos)

    def by_folder(self, home):
        """Return the photos of the folders in a folder, each of which is a class."""
        folders = [each for each in home.filled if each.name.lower() not in UNLABELLED]
        folders = [each for each in folders if not self.is_copy(each, home)]
        # None is a class if all are named like splits, or if there is one beside loose photos.
        if all(each.split is not None for each in folders) or (
            len(folders) == 1 and home.photos and folders[0].key not in self.keep
        ):
            return None
        rows, masks, of_key = [], [], {}
        for folder in folders:
            other = of_key.setdefault(folder.key, folder)
            if nfc(other.name) != nfc(folder.name):
                raise UserError(
                    f"expected one folder for each class, got both {other.name} and "
                    f"{folder.name} in {self.place(home)}"
                )
            member = class_name(folder.name)
            names = {os.path.splitext(path)[0] for path in folder.paths()}
            for path in folder.paths():
                if (match := MASK.fullmatch(path)) and match[1] in names:
                    masks.append(path)
                else:
                    rows.append((path, member, identity(member, path[folder.start :])))
        for each in home.folders:
            if not self.keep and not any(inner.photos or inner.others for inner in each.below):
                raise UserError(
                    f"expected photos in every class folder, got none in {self.place(each)}"
                )
        notes = self.left_out(home, folders)
        notes += [f"left out, as masks of other photos: {some_names(masks)}"] if masks else []
        odd = [x for x in folders if x.split is not None or x.key in PROJECT or x.key[0] in "@#"]
        if odd:
            what = "taken for classes; if they are none, move them elsewhere"
            notes.append(f"{_names(odd)} in {self.place(home)}: {what}")
        return _Part("folders", home, f"one folder per class in {self.place(home)}", rows, notes)

    def by_csv(self, passed, name=None):
        """Return the photos that a CSV file in one of the folders gives labels of several classes.

        Files with "train" or "label" in their names are tried first; among equals, those with
        "test" or "val" last. With `name`, only a file of this name is read, and may hold one class.
        """

        def order(file):
            return [not re.search("train|label", file), bool(re.search("test|val", file))]

        for folder in passed:
            files = [each for each in folder.others if each.lower().endswith((".csv", ".tsv"))]
            files = [each for each in files if name in (None, each.lower())]
            for file in sorted(files, key=lambda each: order(each.lower())):
                paths = {path[folder.start :]: path for path in folder.paths()}
                try:
                    place = self.root / folder.path / file
                    of, split, how, notes = label_files.read_csv(place, [*paths])
                except label_files.NotAList as error:
                    self.complaints.setdefault(file.lower(), error)
                    continue
                if name or len(set(of.values())) > 1:
                    # Identified by path alone: a corrected label must not change the split.
                    rows = [(paths[path], of[path], nfc(path)) for path in sorted(of)]
                    splits = [split[path] for path in sorted(of)] if split else None
                    return _Part("csv", folder, how, rows, notes, splits)
        return None

    def by_name(self, folder, paths):
        """Return the photos at `paths` in a folder that have a label in their names.

        If some have no label, or labels are no classes, only those named like Kaggle's are used.
        """
        rows = []
        for path in paths:
            if member := _label_in_name(path):
                rows.append((path, member, identity(member, path[folder.start :])))
        if not _are_labels([member for _, member, _ in rows], len(paths)):
            rows = [row for row in rows if KAGGLE_NAME.fullmatch(row[0], folder.start)]
        if not rows:
            return None
        without = sorted({*paths}.difference(path for path, _, _ in rows))
        notes = [f"left out, without a label: {some_names(without)}"] if without else []
        if not (self.classes or all(KAGGLE_NAME.fullmatch(p, p.rfind("/") + 1) for p, *_ in rows)):
            members = some_names(sorted({member for _, member, _ in rows}))
            notes.append(f"{members}: taken for classes from names; if they are none, use folders")
        how = f"labels from names such as {rows[0][0][folder.start :]}"
        return _Part("names", folder, how, rows, notes)

    def in_batches(self, passed):
        """Return the photos of numbered folders that all hold photos of several labels."""
        home = passed[-1]
        keys = {each.key for each in home.filled}
        if len(stem := _without_numbers(keys)) != 1 or keys & self.keep or home.photos:
            return None
        paths = home.paths()
        table = called = None
        with contextlib.suppress(UserError):
            table = self.by_csv(passed) if stem != {""} else None  # folders 0, 1, 2 may be classes
            called = table and re.search(r"column (\w+) the label", table.how.lower())
        # A column of another name may say something else of photos in numbered classes.
        is_clear = called and called[1] in label_files.LABEL_COLUMNS
        for part in (self.by_name(home, paths), table if is_clear else None):
            rows = part.rows if part else []
            found = {(path[home.start :].split("/")[0], label) for path, label, _ in rows}
            labels = collections.Counter(folder for folder, _ in found)
            if len(labels) > 1 and min(labels.values()) > 1 and len(rows) > 0.9 * len(paths):
                part.notes.append(f"not taken for classes: {_names(home.filled)}")
                return part
        return None

    # What is found, what is left out, what cannot be decided

    def found(self, parts, home):
        """Return the photos of all parts, in folders of `home`, as one `Found`."""
        first = parts[min(parts)]
        if first.kind == "folders" or (first.kind == "names" and len(parts) == 1):
            self.check_one_layout([*self.passed, *(part.folder for part in parts.values())])
        folder, how = (home, "") if len(parts) > 1 else (first.folder, first.how)
        place, paths, names, members, given, tops = self.place(folder), [], [], [], [], []
        for split, part in sorted(parts.items()):
            self.notes += part.notes
            if missing := sorted(first.classes - part.classes):
                self.notes.append(
                    f"{self.place(part.folder)} has no photos of {some_names(missing)}"
                )
            taken = set(names)
            for path, member, name in part.rows:
                # Each folder may number its photos from 0, but Kaggle's numbers (cat.7) are unique.
                is_kaggles = part is first or KAGGLE_NAME.fullmatch(path.rpartition("/")[2])
                is_new = is_kaggles and name not in taken
                names.append(name if is_new else f"{SPLITS[split]}/{name}")
                members.append(member)
                paths.append(path[folder.start :])
            given += (len(parts) == 1 and part.splits) or [split] * len(part.rows)
            tops.append(f"{paths[-1].partition('/')[0]}/")
        if complaint := self.complaints.get(label_files.CSV_NAME):
            self.notes.append(f"{complaint}; it is not taken for labels")
        self.notes += self.said_otherwise(first.kind, parts)
        for note in dict.fromkeys(self.notes):
            logger.warning(note)
        classes = self.classes or sorted(first.classes)
        if unknown := sorted(set(members).difference(classes)):
            whose = "the network" if self.classes else self.place(first.folder)
            raise UserError(
                f"expected photos of the classes of {whose}, {some_names(classes)}, got "
                f"{some_names(unknown)} too in {place}"
            )
        if not 2 <= len(classes) <= MOST_CLASSES:
            got, ways = f"{len(classes):,}: {some_names(classes)}", self.ways(self.passed)
            raise UserError(f"expected 2 to {MOST_CLASSES:,} classes, got {got} in {place}; {ways}")
        number = {name: index for index, name in enumerate(classes)}
        labels = np.array([number[member] for member in members], np.int32)
        how = how or f"split from {' and '.join(tops)}"
        summary = printable(f"{how}; {len(classes):,} classes: {some_names(classes)}")
        given = np.array(given) if len(parts) > 1 or first.splits else None
        others = home.endings()
        return Found(self.root / folder.path, classes, paths, labels, names, given, summary, others)

    def check_one_layout(self, homes):
        """Raise `UserError` if Kaggle's photos lie beside folders: either may be a mistake."""
        for home in homes:
            for path in home.photos if home.filled else ():
                if KAGGLE_NAME.fullmatch(path, home.start):
                    raise UserError(
                        f"expected one layout in {self.place(home)}, got photos beside the folders "
                        f"({path[home.start :]}) and in them ({_names(home.filled)})"
                    )

    def said_otherwise(self, kind, parts):
        """Return a note if a CSV file and class folders, of which one is used, disagree.

        A file with other words for labels is noted only if it has several for each folder.
        """
        other = None
        with contextlib.suppress(UserError):
            if kind == "folders":
                other = self.by_csv(self.passed)
            elif kind == "csv":
                other = self.by_folder(self.passed[-1])
        theirs = {path: class_name(member) for path, member, _ in other.rows} if other else {}
        rows = [(path, class_name(m)) for part in parts.values() for path, m, _ in part.rows]
        differ = [path for path, member in rows if theirs.get(path, member) != member]
        if not differ or {member for _, member in rows}.isdisjoint(theirs.values()):
            pairs = {(member, theirs[path]) for path, member in rows if path in theirs}
            labels = collections.Counter(member for member, _ in pairs)
            is_finer = kind == "folders" and min(labels.values(), default=0) > 1
            return [f"not used: {other.how}"] if is_finer else []
        disagrees = f"it disagrees on {counted(len(differ), 'photo')}, such as {differ[0]}"
        return [f"not used: {other.how}; {disagrees}"]

    def left_out(self, home, taken):
        """Return a note on what is left out in a folder: all but the folders `taken`."""
        left = [
            f"{each.name}/ (photos: {len(each.paths()):,})"
            for each in home.folders
            if each not in taken
        ]
        left += [f"{len(home.photos):,} photos beside the folders"] if home.photos else []
        for path in sorted((self.root / home.path).glob(".*")):
            if path.is_dir() and path.name.lower() not in TOOLS:
                photos = sum(name.lower().endswith(SUFFIXES) for name in os.listdir(path))
                left += [f"{path.name}/ (photos: {photos:,})"] if photos else []
        return [f"left out in {self.place(home)}: {some_names(left)}"] if left else []


def _names(folders):
    return some_names([each.name for each in folders])


def _are_labels(members, photos):
    """Return whether `members`, words before numbers in names, may be labels of all photos."""
    labels = {member.casefold() for member in set(members)}
    return (
        len(members) == photos
        and 2 <= len(labels) <= photos / 2
        and len(labels) == len(set(members))
        and not labels & NO_LABELS
        and all(split_of(label) is None for label in labels)
    )


# --- Names ----------------------------------------------------------------------------------------


def _label_in_name(path):
    match = LABEL_NAME.fullmatch(path, path.rfind("/") + 1)
    return match and sys.intern(class_name(match[1] or match[2]))


def _without_numbers(names):
    return {re.sub(r"\d+", "", name) for name in names}


def class_name(folder_name: str) -> str:
    """Return the class of a folder: its name in NFC, but `cat` for Cats and `dog` for dogs."""
    lower = folder_name.lower()
    if lower in ("cat", "cats", "dog", "dogs"):
        return lower.removesuffix("s")
    return nfc(printable(folder_name))  # it is shown, drawn, and kept as JSON


def identity(member: str, path: str) -> str:
    """Return what identifies a photo in every layout.

    It is class and number (`cat.7`) if the name is one of Kaggle's or Microsoft's, which number the
    photos alike; otherwise class and path below the class folder.
    """
    if member in ("cat", "dog"):
        match = KAGGLE_NAME.fullmatch(path) or KAGGLE_NAME.fullmatch(f"{member}.{path}")
        if match and match[1].lower() == member:
            return f"{member}.{int(match[2])}"
    return nfc(f"{member}/{path}")
