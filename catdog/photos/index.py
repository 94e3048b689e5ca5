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

For example:

    archive/plots/loss.png           left out by rule 1, since pets/ is a data set by itself
    archive/pets/train/Cats/1.jpg    for training by rule 2, a cat by rule 3
    archive/pets/train/foxes/1.jpg   for training, of the class foxes
    archive/pets/val/foxes/2.jpg     for validation
    archive/pets/test/3.jpg          left out by rule 2, since it has no label

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
from typing import NamedTuple

import numpy as np

from catdog.errors import UserError
from catdog.files import counted, nfc, printable, some_names
from catdog.photos import labels as label_files
from catdog.photos.drawings import SETTINGS as DEMO
from catdog.photos.found import MOST_CLASSES, SPLITS, TEST, TRAIN, Found, split_of
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
        inside = f"{path}/" if path else ""
        self.path = path
        self.name = path.rpartition("/")[2]
        self.start = len(inside)  # length of the prefix of its photos' paths
        self.is_marked = bool(path) and any(mark <= {*others} for mark in MARKS)
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


def _list(data_dir, cache_dir, keep):
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


class _Row(NamedTuple):
    """A labelled photo."""

    path: str
    label: str
    name: str  # what identifies it, see `identity`
    split: int | None = None  # if a CSV file says it


@dataclasses.dataclass
class _Part:
    """Labelled photos in a folder."""

    kind: str  # folders, csv or names
    folder: _Folder
    how: str  # where their labels, or their split, come from
    rows: list[_Row]
    notes: list[str]  # warnings to print if this part is used
    is_sure: bool = False  # whether the CSV file names its column of labels, see `Table`
    inner: Sequence[_Folder] = ()  # the folders of the parts that were joined, if any
    classes: set[str] = dataclasses.field(default_factory=set)  # of joined parts, the first's

    def __post_init__(self):
        self.classes = self.classes or {row.label for row in self.rows}


# --- The rule -------------------------------------------------------------------------------------


class _Finder:
    """Applies the rule to one data folder. Methods that find no labels return None."""

    def __init__(self, data_dir, cache_dir, classes):
        self.root = Path(data_dir)
        self.classes = [class_name(name) for name in classes]
        self.keep = {name.casefold() for name in self.classes}  # such folders are never left out
        self.top = _list(data_dir, cache_dir, self.keep)
        self.passed = self.strip(self.top)  # the data folder and those that lead to the photos
        self.notes = []  # warnings
        self.complaints = {}  # by file name: errors of CSV files that are no lists of photos

    def find(self):
        while True:  # a whole data set may lie beside other folders, which are left out
            home = self.passed[-1]
            part = self.by_csv(self.passed, label_files.CSV_NAME) or self.by_split(home)
            inner = [] if part else self.set_in(home)
            if not inner:
                break
            self.passed += inner
        part = part or self.label(self.passed)
        if not part and len(self.passed) > 1 and len(self.passed[-2].filled) == 1:
            part = self.by_folder(self.passed[-2])  # one class, which `result` may refuse
        if not part:
            got = f"expected labelled photos in {self.root}, {self.got(home)}"
            raise NoPhotos(f"{got}; {self.ways()}")
        return self.result(part, home)

    def ways(self):
        """Return where labels may be, and what was wrong with folders or a CSV file."""
        hints = [WAYS]
        if splits := _names([each for each in self.passed[-1].filled if each.split is not None]):
            hints.append(f"named like splits: {splits}; rename those that are classes")
        beside = [name for folder in self.passed for name in folder.others if self.top.paths()]
        there = [f"beside the photos: {some_names(beside, 3)}"] if beside else []
        return "; ".join([*hints, *map(str, [*self.complaints.values(), *there][:1])])

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
        sets = [each for each in home.filled if self.is_set(each, home, each in twins)] or twins
        what = f" with folders of the same names ({some_names(names)})" if names else ""
        if not sets:
            return []
        if sets is twins and not self.are_copies(twins, names):
            self.notes.append(f"taken for classes: {_names(sets)},{what}")
            return []
        if len(sets) > 1:
            raise UserError(
                f"expected one folder per class in {self.place(home)}, got {_names(sets)}{what}"
                "; use one of them, or move the photos of each class into one folder"
            )
        self.notes += self.left_out(home, sets)
        return self.strip(sets[0])

    def twins(self, home):
        """Return the folders in a folder that hold folders of the same names, and these names.

        A class may hold numbered folders, such as one per year, if it is not numbered itself.
        """
        ends = {each: self.strip(each)[-1] for each in home.filled if each.key not in self.keep}
        inner = {each: {x.key for x in end.filled} for each, end in ends.items() if not end.photos}
        is_numbered = len(_without_numbers(each.key for each in home.filled)) == 1
        shared = {}
        for first, second in itertools.combinations(inner, 2):
            names = inner[first] & inner[second]
            if len(names) > 1 and (is_numbered or len(_without_numbers(names)) > 1):
                shared |= {first: names, second: names}
        return [*shared], sorted(set().union(*shared.values()))

    def are_copies(self, twins, names):
        """Return whether twins are parts or copies: their names, or those in them, say so."""
        outer = _without_numbers(each.key for each in twins)
        are_parts = any(split_of(name) is not None or name in IMAGES | PROJECT for name in names)
        return are_parts or len(outer) < len(twins) or not outer.isdisjoint(COPIES)

    def may_be_class(self, folder, home):
        """Return whether a folder in `home` may be a class.

        A class of the network always is one. Others are no `test1` and no copy of the class folders
        beside them.
        """
        inner = {each.key for each in self.strip(folder)[-1].filled}
        is_copy = len(inner & {each.key for each in home.filled}) > 1
        return folder.key in self.keep or not (is_copy or folder.name.lower() in UNLABELLED)

    def is_set(self, folder, home, is_twin):
        """Return whether a folder in `home` holds a data set.

        That is: classes in splits, Kaggle's or Microsoft's photos, or those to which masks beside
        them belong.
        """
        if folder.key in self.keep:
            return False
        *passed, last = self.strip(folder)
        splits = {TEST if each.name.lower() in UNLABELLED else each.split for each in last.filled}
        if splits - {None} > {TRAIN}:
            return True
        if passed and last.split == TRAIN and last.photos and _is_kaggles(last.photos[0]):
            return True
        keys = {each.key for each in (*passed, last)}
        if "petimages" not in keys and IMAGES.isdisjoint(keys if is_twin else {folder.key}):
            return False
        # Without labels, it is a class.
        has_masks_beside = {each.key for each in home.filled} <= IMAGES | PROJECT
        return bool(last.filled) or has_masks_beside or self.label([last]) is not None

    # 2. Splits

    def by_split(self, home):
        """Return the photos in folders that are named like splits."""
        named = [each for each in home.filled if each.split is not None]
        named.sort(key=lambda each: each.split)
        # `strip` would skip a class that is alone in its split. `known` are those of other splits.
        ends = [self.strip(each)[-1].filled for each in named]
        known = {each.key for end in ends for each in end if len(end) > 1}
        taken = {}
        for each in named:
            passed = self.strip(each, known)
            if part := self.label([*passed, *self.set_in(passed[-1])]):
                taken[each] = part
        # Drop splits that share no class with the first, such as test photos without labels.
        classes = self.classes or next((part.classes for part in taken.values()), ())
        taken = {each: part for each, part in taken.items() if not part.classes.isdisjoint(classes)}
        splits = {each.split for each in taken}
        has_train = TRAIN in splits or self.keep
        # Without training photos, folders named test or val beside others are no splits.
        if not taken or not (has_train or len(named) == len(home.filled)):
            return None
        if not has_train or len(splits) < len(taken):
            raise UserError(
                "expected a folder of training photos and one folder for each split in "
                f"{self.place(home)}, got {_names(taken)}"
            )
        self.notes += self.left_out(home, taken)
        return self.joined(taken, home)

    def joined(self, parts, home):
        """Return the parts of a split, by their folders in `home`, as one."""
        first, *others = parts.values()
        if not others:
            return first
        rows, notes = [], []
        for folder, part in parts.items():
            notes += part.notes
            if missing := some_names(sorted(first.classes - part.classes)):
                notes.append(f"{self.place(part.folder)} has no photos of {missing}")
            names = {row.name for row in rows}
            for row in part.rows:
                # Each folder may number its photos from 0, but Kaggle's numbers (cat.7) are unique.
                is_unique = part is first or (_is_kaggles(row.path) and row.name not in names)
                name = row.name if is_unique else f"{SPLITS[folder.split]}/{row.name}"
                rows.append(_Row(row.path, row.label, name, folder.split))
        how = f"split from {' and '.join(f'{folder.name}/' for folder in parts)}"
        inner = [part.folder for part in parts.values()]
        return _Part(first.kind, home, how, rows, notes, inner=inner, classes=first.classes)

    # 3. Classes

    def label(self, passed):
        """Return the photos below the last folder with what folders, CSV or names say."""
        home = passed[-1]
        if part := self.in_batches(passed) or self.by_folder(home):
            return part
        return self.by_csv(passed) or self.by_name(home, home.photos)

    def by_folder(self, home):
        """Return the photos of the folders in a folder, each of which is a class."""
        folders = [each for each in home.filled if self.may_be_class(each, home)]
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
            label, paths = class_name(folder.name), folder.paths()
            names = {os.path.splitext(path)[0] for path in paths}
            for path in paths:
                if (match := MASK.fullmatch(path)) and match[1] in names:
                    masks.append(path)
                else:
                    rows.append(_Row(path, label, identity(label, path[folder.start :])))
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
        for folder in passed:
            files = [each for each in folder.others if each.lower().endswith((".csv", ".tsv"))]
            files = [each for each in files if name in (None, each.lower())]
            files.sort(key=lambda each: re.search("test|val", each.lower()) is not None)
            files.sort(key=lambda each: not re.search("train|label", each.lower()))
            for file in files:
                paths = {path[folder.start :]: path for path in folder.paths()}
                try:
                    table = label_files.read_csv(self.place(folder) / file, [*paths])
                except label_files.NotAList as error:
                    self.complaints.setdefault(file.lower(), error)
                    continue
                # Identified by path alone: a corrected label must not change the split.
                rows = [
                    _Row(paths[path], label, nfc(path), table.splits.get(path))
                    for path, label in sorted(table.labels.items())
                ]
                part = _Part("csv", folder, table.how, rows, table.notes, table.is_sure)
                if name or len(part.classes) > 1:
                    return part
        return None

    def by_name(self, folder, paths):
        """Return the photos at `paths` in a folder that have a label in their names.

        If some have no label, or labels are no classes, only those named like Kaggle's are used.
        """
        rows = [
            _Row(path, label, identity(label, path[folder.start :]))
            for path in paths
            if (label := _label_in_name(path))
        ]
        if not _are_labels([row.label for row in rows], len(paths)):
            rows = [row for row in rows if KAGGLE_NAME.fullmatch(row.path, folder.start)]
        if not rows:
            return None
        how = f"labels from names such as {rows[0].path[folder.start :]}"
        part = _Part("names", folder, how, rows, [])
        if without := sorted({*paths}.difference(row.path for row in rows)):
            part.notes.append(f"left out, without a label: {some_names(without)}")
        if not (self.classes or all(_is_kaggles(row.path) for row in rows)):
            labels = some_names(sorted(part.classes))
            what = "taken for classes from names; if they are none, use folders"
            part.notes.append(f"{labels}: {what}")
        return part

    def in_batches(self, passed):
        """Return the photos of numbered folders that all hold photos of several labels."""
        home = passed[-1]
        keys = {each.key for each in home.filled}
        if len(stem := _without_numbers(keys)) != 1 or keys & self.keep:
            return None
        paths = home.paths()
        table = None
        with contextlib.suppress(UserError):
            table = self.by_csv(passed) if stem != {""} else None  # folders 0, 1, 2 may be classes
        # A column of another name may say something else of photos in numbered classes.
        for part in (self.by_name(home, paths), table if table and table.is_sure else None):
            rows = part.rows if part else []
            inside = ((row.path[home.start :].split("/"), row.label) for row in rows)
            pairs = {(folder, label) for (folder, *rest), label in inside if rest}
            labels = collections.Counter(folder for folder, _ in pairs)
            if len(labels) > 1 and min(labels.values()) > 1 and len(rows) > 0.9 * len(paths):
                part.notes.append(f"not taken for classes: {_names(home.filled)}")
                return part
        return None

    # What is found, what is left out, what cannot be decided

    def result(self, part, home):
        """Return the photos of a part, with a warning of what may be wrong, as a `Found`."""
        self.check_one_layout(part)
        self.warn(part)
        place = self.place(part.folder)
        classes = self.classes or sorted(part.classes)
        names = some_names(classes)
        if unknown := sorted({row.label for row in part.rows}.difference(classes)):
            whose = "the network" if self.classes else self.place(part.inner[0])
            raise UserError(
                f"expected photos of the classes of {whose}, {names}, got {some_names(unknown)} "
                f"too in {place}"
            )
        if not 2 <= len(classes) <= MOST_CLASSES:
            got = f"{len(classes):,}: {names} in {place}"
            raise UserError(f"expected 2 to {MOST_CLASSES:,} classes, got {got}; {self.ways()}")
        number = {name: index for index, name in enumerate(classes)}
        splits = [row.split for row in part.rows]
        return Found(
            root=place,
            classes=classes,
            paths=[row.path[part.folder.start :] for row in part.rows],
            labels=np.array([number[row.label] for row in part.rows], np.int32),
            names=[row.name for row in part.rows],
            given_split=None if None in splits else np.array(splits),
            summary=printable(f"{part.how}; {len(classes):,} classes: {names}"),
            others=home.endings(),
        )

    def check_one_layout(self, part):
        """Raise `UserError` if Kaggle's photos lie beside folders: either may be a mistake."""
        if part.kind == "csv" or (part.kind == "names" and part.inner):
            return
        for home in (*self.passed, part.folder, *part.inner):
            for path in home.photos if home.filled else ():
                if _is_kaggles(path):
                    raise UserError(
                        f"expected one layout in {self.place(home)}, got photos beside the folders "
                        f"({path[home.start :]}) and in them ({_names(home.filled)})"
                    )

    def warn(self, part):
        """Log what may be wrong with the part, and what is left out on the way to it."""
        notes = [*self.notes, *part.notes]
        if complaint := self.complaints.get(label_files.CSV_NAME):
            notes.append(f"{complaint}; it is not taken for labels")
        for note in dict.fromkeys(notes + self.said_otherwise(part)):
            logger.warning(note)

    def said_otherwise(self, part):
        """Return a note if a CSV file and class folders, of which one is used, disagree.

        A file with other words for labels is noted only if it has several for each folder.
        """
        other = None
        with contextlib.suppress(UserError):
            if part.kind == "folders":
                other = self.by_csv(self.passed)
            elif part.kind == "csv":
                other = self.by_folder(self.passed[-1])
        theirs = {row.path: class_name(row.label) for row in other.rows} if other else {}
        ours = {row.path: class_name(row.label) for row in part.rows}
        if not {*ours.values()}.isdisjoint(theirs.values()):
            if differ := [path for path in ours if theirs.get(path, ours[path]) != ours[path]]:
                photos = f"{counted(len(differ), 'photo')}, such as {differ[0]}"
                return [f"not used: {other.how}; it disagrees on {photos}"]
        elif part.kind == "folders":
            pairs = {(label, theirs[path]) for path, label in ours.items() if path in theirs}
            labels = collections.Counter(label for label, _ in pairs)
            if min(labels.values(), default=0) > 1:
                return [f"not used: {other.how}"]
        return []

    def left_out(self, home, taken):
        """Return a note on what is left out in a folder: all but the folders `taken`."""
        left = [
            f"{each.name}/ (photos: {len(each.paths()):,})"
            for each in home.folders
            if each not in taken
        ]
        beside = f"{counted(len(home.photos), 'photo')} beside the folders"
        left += [beside] if home.photos else []
        for path in sorted(self.place(home).glob(".*")):
            if path.is_dir() and path.name.lower() not in TOOLS:
                photos = sum(name.lower().endswith(SUFFIXES) for name in os.listdir(path))
                left += [f"{path.name}/ (photos: {photos:,})"] if photos else []
        return [f"left out in {self.place(home)}: {some_names(left)}"] if left else []


def _names(folders):
    return some_names([each.name for each in folders])


def _are_labels(labels, photos):
    """Return whether `labels`, words before numbers in names, may be those of all photos."""
    keys = {label.casefold() for label in set(labels)}
    return (
        len(labels) == photos
        and 2 <= len(keys) <= photos / 2
        and len(keys) == len(set(labels))
        and not keys & NO_LABELS
        and all(split_of(key) is None for key in keys)
    )


# --- Names ----------------------------------------------------------------------------------------


def _is_kaggles(path):
    return KAGGLE_NAME.fullmatch(path, path.rfind("/") + 1) is not None


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


def identity(label: str, path: str) -> str:
    """Return what identifies a photo in every layout.

    It is class and number (`cat.7`) if the name is one of Kaggle's or Microsoft's, which number the
    photos alike; otherwise class and path below the class folder.
    """
    if label in ("cat", "dog"):
        match = KAGGLE_NAME.fullmatch(path) or KAGGLE_NAME.fullmatch(f"{label}.{path}")
        if match and match[1].lower() == label:
            return f"{label}.{int(match[2])}"
    return nfc(f"{label}/{path}")
