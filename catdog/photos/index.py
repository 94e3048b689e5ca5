"""Finds labelled photos: which files, of which class, in which split. One rule for all layouts.

1. Leading folders that all photos share are left out (`archive/dataset/...`, `train/train/...`).
2. If folders of the next level are named like splits (train, training_set, val, test ...) and hold
   labelled photos, they are the split.
3. The next level is the class. Without class folders, the label is in the names (`cat.7`,
   `Abyssinian_12`) or in a CSV file. A file `labels.csv` goes before folders and names.

What is left out is said, and so is what the rule did, in `Found.summary`.
"""

import collections
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog.errors import UserError
from catdog.files import nfc, printable, some_names
from catdog.photos import labels as label_files
from catdog.photos.drawings import SETTINGS as DEMO
from catdog.photos.found import SPLITS, Found
from catdog.photos.photo import SUFFIXES, walk

logger = logging.getLogger(__name__)

# The last word of a folder that means a split, in the order of SPLITS: training_set, seg_train ...
SPLIT_NAME = re.compile(
    r"(?:.*[_-])?(?:(train(?:ing)?)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?|eval(?:uation)?))"
    r"(?:[\W_]?(?:set|data|images?|photos?|split))?"
)
UNLABELLED = {"test1"}  # Kaggle's photos to be labelled
KAGGLE_NAME = re.compile(r"(cat|dog)\.(\d+)\.\w+", re.IGNORECASE)
NUMBER_NAME = re.compile(r"(?:(cat|dog)\.)?(\d+)\.\w+", re.IGNORECASE)
# A label and numbers: cat_7, cat (7), american_bulldog_12; cat7 only without other digits.
LABEL_NAME = re.compile(
    r"(?:(.*?[^\W\d_].*?)(?:[\s._-]*\(\d+\)|[\s._-]+\d+)+|([^\W\d_]+)\d+)(?:\.\w+)?"
)
# Cameras and programs name their pictures so, whatever they show.
NO_LABELS = {"img", "image", "images", "dsc", "dscn", "dscf", "p", "pic", "picture", "photo", "pxl"}
NO_LABELS |= {"mvimg", "frame", "file", "scan", "screenshot", "wp", "gopr", "dji", "untitled"}
# Hidden folders of programs, which are left out without a word.
TOOLS = {".ipynb_checkpoints", ".git", ".cache", ".thumbnails", ".thumbs", ".trash"}
MOST_CLASSES = 1000
WAYS = "labels are folders (one per class), names such as cat_7.jpg, or labels.csv"


def find(
    data_dir: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    classes: Sequence[str] = (),
) -> Found | None:
    """Find the labelled photos under `data_dir`, by the rule at the top of this file.

    Args:
        cache_dir: folder of decoded photos, which is left out.
        classes: those of a network that is to score the photos. They become the classes of what is
            found; some may then have no photos.
    Returns:
        The photos, or None if none has a label.
    Raises:
        UserError: `data_dir` is not a folder or cannot be read; photos of only one class or of more
            than `MOST_CLASSES`, or of others than `classes`; a class folder without files; folders
            whose meaning is not clear.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"expected a folder, got {printable(data_dir)}")
    try:
        return _Finder(data_dir, cache_dir, classes).find()
    except OSError as error:
        raise UserError(f"cannot read {printable(error.filename)}: {error.strerror}") from None


def none_found(data_dir: str | os.PathLike) -> str:
    """Return a message for a folder in which `find` found no labelled photos."""
    with contextlib.suppress(OSError):
        top = _list(data_dir, None)
        if path := next(top.paths(), None):
            return f"expected labelled photos, got photos such as {printable(path)} without; {WAYS}"
        if endings := _endings(top):
            kinds = some_names([f"{end or 'no ending'}: {n:,}" for end, n in endings.items()])
            return f"expected labelled photos, got other files in {printable(data_dir)} ({kinds})"
    return f"expected labelled photos, found none under {printable(data_dir)}; {WAYS}"


# --- Folders --------------------------------------------------------------------------------------


class _Folder:
    """A folder, with what lies in it."""

    def __init__(self, path: str, photos: list[str], others: list[str]):
        self.path, self.name = path, path.rpartition("/")[2]  # below the data folder
        self.photos, self.others = photos, others  # names of files directly in it
        self.folders: list[_Folder] = []
        self.below = [self]  # itself and all folders below it, as `walk` yields them
        self.count, self.files = len(photos), len(photos) + len(others)  # in all of them

    @property
    def filled(self) -> list["_Folder"]:
        """The folders in it that hold photos, at any depth."""
        return [folder for folder in self.folders if folder.count]

    def paths(self) -> Iterator[str]:
        """Yield the paths of all photos, below this folder."""
        start = len(self.path) + 1 if self.path else 0
        for folder in self.below:
            inside = f"{folder.path}/"[start:] if folder is not self else ""
            yield from (inside + name for name in folder.photos)

    def __str__(self):
        return f"{printable(self.name)}/ (photos: {self.count:,})"


def _list(data_dir: str | os.PathLike, cache_dir: str | os.PathLike | None) -> _Folder:
    """Return the data folder; raise OSError if it, or one below it, cannot be listed."""

    def fail(error):
        raise error

    top, listed = os.fsdecode(data_dir), {}
    start = len(os.path.join(top, ""))
    for path, photos, others in walk(top, fail, cache_dir):
        folder = _Folder(path[start:].replace(os.sep, "/"), photos, others)
        if folder.path:
            parent = listed.get(folder.path.rpartition("/")[0])
            if parent is None or DEMO in others:  # drawings of ours, which may lie beside photos
                continue
            parent.folders.append(folder)
        listed[folder.path] = folder
    for folder in reversed(listed.values()):
        for child in folder.folders:
            folder.below += child.below
            folder.count += child.count
            folder.files += child.files
    return listed[""]


def _endings(folder):
    """Return how many files that are no photos have which ending."""
    names = (name for each in folder.below for name in each.others)
    return dict(collections.Counter(os.path.splitext(n)[1].lower() for n in names).most_common())


class _Part:
    """Labelled photos in a folder.

    Attributes:
        kind: what their labels come from: "folders", "names" or "csv".
        how: the same in words.
        notes: what is to be said about them if they are taken.
        paths, members, names: (n,) lists: path below the folder, class, what identifies the photo.
    """

    def __init__(self, folder, kind, how, rows, notes=()):
        self.folder, self.kind, self.how, self.notes = folder, kind, how, [*notes]
        self.paths, self.members, self.names = map(list, zip(*rows, strict=True))


# --- The rule -------------------------------------------------------------------------------------


class _Finder:
    """Applies the rule to one data folder. What has no labels is None, or {} of several parts."""

    def __init__(self, data_dir, cache_dir, classes):
        self.root, self.top = Path(data_dir), _list(data_dir, cache_dir)
        self.classes = [class_name(name) for name in classes]
        self.keep = {name.casefold() for name in self.classes}  # such folders are never left out

    def find(self):
        passed, notes = self.shared()
        home, complaint = passed[-1], None
        for folder in passed:
            try:
                if part := self.by_csv(folder, label_files.CSV_NAME):
                    return self.found(home, {0: part}, [])
            except label_files.NotAList as error:
                complaint = error
        parts = self.by_split(home, notes)
        part = None if parts else self.by_folder(home)
        if complaint and not (parts or part):
            raise complaint
        notes += [f"{complaint}; it is not taken for labels"] if complaint else []
        for folder in () if parts else passed:
            part = part or self.by_csv(folder)
        part = part or (None if parts else self.by_name(home))
        if not part and not parts and len(passed) > 1:
            part = self.by_folder(passed[-2])  # photos without labels in one folder: one class
        parts = parts or ({0: part} if part else {})
        for folder in passed if part and part.kind == "folders" else ():
            with contextlib.suppress(UserError):
                other = self.by_csv(folder)
                if other and set(other.members).isdisjoint(part.members):
                    notes.append(f"not used: {other.how}; to use the file, name it labels.csv")
        return self.found(home, parts, notes) if parts else None

    def place(self, folder):
        return printable(self.root / folder.path)

    def is_class(self, folder, known=frozenset()):
        return _key(folder) in self.keep or _key(folder) in known

    def splits(self, home):
        """Return the filled folders that are named like splits, those of training photos first."""
        named = [each for each in home.filled if split_of(each.name) is not None]
        return sorted((each for each in named if not self.is_class(each)), key=_split)

    # 1. Leading folders

    def strip(self, folder, known=frozenset()):
        """Return the folder and those in it that all its photos share and that are no class."""
        passed = [folder]
        while not folder.photos and len(folder.filled) == 1:
            (folder,) = folder.filled
            if self.is_class(folder, known):
                break
            passed.append(folder)
        return passed

    def shared(self):
        """Return the folders that all photos share, from the data folder down, and notes.

        A whole data set may lie beside other folders, which are left out.
        """
        passed, notes = self.strip(self.top), []
        while sets := [each for each in passed[-1].filled if self.is_set(each)]:
            home = passed[-1]
            if any(_split(each) == 0 and self.label(self.strip(each)[-1]) for each in home.filled):
                break
            if len(sets) > 1:
                names = some_names([each.name for each in sets])
                raise UserError(f"expected one set of photos in {self.place(home)}, got {names}")
            self.check_one_layout(home)
            notes += self.left_out(home, sets)
            passed += self.strip(sets[0])
        return passed, notes

    def is_set(self, folder):
        """Return whether a folder holds classes in splits, or Kaggle's or Microsoft's photos."""
        inner = [folder, *self.strip(folder)[-1].filled]
        return not self.is_class(folder) and (
            any(each.name.lower() == "petimages" and each.filled for each in inner)
            or any(_split(each) == 0 and self.by_name(each, False) for each in inner[1:])
            or {0} < {_split(each) for each in inner[1:] if each.filled} - {None}
        )

    # 2. Splits

    def by_split(self, home, notes):
        """Return the photos of each split, by index into `SPLITS`, if folders are named so."""
        named, parts, folders = self.splits(home), {}, {}
        # A class may be alone in one split: there it is no folder that all photos share.
        ends = [self.strip(each)[-1].filled for each in named]
        known = {_key(each) for end in ends for each in end if len(end) > 1}
        # Beside folders of photos, train/ is a class unless it has class folders of its own.
        alone = not any(each.photos for each in home.filled if each not in named)
        for folder in named:
            split, part = _split(folder), self.label(self.strip(folder, known)[-1], alone)
            if split and not parts and not self.keep:
                if part and len(named) == len(home.filled):
                    raise UserError(
                        f"expected a folder of training photos in {self.place(home)}, got only "
                        f"{some_names([each.name for each in named])}"
                    )
                break
            first = next(iter(parts.values()), part)
            if part and not set(part.members).isdisjoint(first.members):
                if split in parts:
                    raise UserError(
                        f"expected one folder for {SPLITS[split]}, got both "
                        f"{printable(folders[split].name)} and {printable(folder.name)} in "
                        f"{self.place(home)}"
                    )
                parts[split], folders[split] = part, folder
            elif parts:  # such as a competition's test photos
                notes.append(
                    f"{self.place(folder)} is not taken for a split: it has none of the classes "
                    f"of {printable(next(iter(folders.values())).name)}"
                )
        if any(part.kind == "folders" for part in parts.values()):
            self.check_one_layout(home)
        notes += self.left_out(home, named) if parts else []
        return parts

    # 3. Classes

    def label(self, folder, general=True):
        """Return the photos of a folder with the labels that its folders, CSV or names say."""
        return self.by_folder(folder) or self.by_csv(folder) or self.by_name(folder, general)

    def by_folder(self, home):
        """Return the photos of the folders in a folder, each of which is a class."""
        self.check_one_layout(home)
        folders = [each for each in home.filled if each.name.lower() not in UNLABELLED]
        # If all are named like splits, none is a class. Nor is one alone beside photos.
        if all(_split(each) is not None and not self.is_class(each) for each in folders) or (
            len(folders) == 1 and home.photos and not self.is_class(folders[0])
        ):
            return None
        rows, of_key = [], {}
        for folder in folders:
            other = of_key.setdefault(_key(folder), folder)
            if nfc(other.name) != nfc(folder.name):
                raise UserError(
                    f"expected one folder for each class, got both {printable(other.name)} and "
                    f"{printable(folder.name)} in {self.place(home)}"
                )
            member = class_name(folder.name)
            rows += ((f"{folder.name}/{p}", member, identity(member, p)) for p in folder.paths())
        for empty in (each for each in home.folders if not each.files and not self.keep):
            raise UserError(
                f"expected photos in every class folder, got none in {self.place(empty)}"
            )
        notes = self.left_out(home, folders)
        hidden = [path for path in (self.root / home.path).glob(".*") if _has_photos(path)]
        if names := sorted(path.name for path in hidden if path.name.lower() not in TOOLS):
            notes.append(f"left out in {self.place(home)} as hidden: {some_names(names)}")
        odd = [each.name for each in folders if _split(each) is not None]
        odd += [each.name for each in folders if each.name.lower() in ("demo", "cache")]
        if odd:
            what = "taken for classes; if they are none, move them elsewhere"
            notes.append(f"{some_names(odd)} in {self.place(home)}: {what}")
        how = f"one folder per class in {self.place(home)}"
        return _Part(home, "folders", how, rows, notes)

    def by_csv(self, folder, name=None):
        """Return the photos of a folder that a CSV file in it gives a label: that of this name.

        Without a name, a file that is no list of photos of several classes is passed over, and one
        that has "train" or "label" in its name goes before others.
        """
        files = [each for each in folder.others if each.lower().endswith((".csv", ".tsv"))]
        files.sort(key=lambda each: not re.search("train|label", each.lower()))
        for file in files if folder.count else ():
            if name and file.lower() != name:
                continue
            try:
                path = self.root / folder.path / file
                label_of, how, notes = label_files.read_csv(path, list(folder.paths()))
            except label_files.NotAList:
                if name:
                    raise
                continue
            if name or len(set(label_of.values())) > 1:
                # The path alone: a corrected label must not move the photo to another split.
                rows = ((path, label_of[path], nfc(path)) for path in sorted(label_of))
                return _Part(folder, "csv", how, rows, notes)
        return None

    def by_name(self, folder, general=True):
        """Return the photos directly in a folder that have a label in their names.

        They are all, or those that are named as Kaggle's.
        """
        for pattern in [LABEL_NAME, KAGGLE_NAME] if general else [KAGGLE_NAME]:
            rows = []
            for path in folder.photos:
                if match := pattern.fullmatch(path):
                    member = sys.intern(class_name(match[1] or match[2]))
                    rows.append((path, member, identity(member, path)))
            if rows and (pattern is KAGGLE_NAME or _are_labels(rows, folder)):
                how = f"labels from names such as {printable(rows[0][0])}"
                part = _Part(folder, "names", how, rows)
                if without := sorted(set(folder.photos).difference(part.paths)):
                    part.notes.append(f"left out, without a label: {some_names(without)}")
                return part
        return None

    # What is found, what is left out, what cannot be decided

    def found(self, home, parts, notes):
        """Return the photos of all parts as one `Found`."""
        first = parts[min(parts)]
        folder = home if len(parts) > 1 else first.folder
        paths, members, names, sides, taken = [], [], [], [], set()
        for split, part in sorted(parts.items()):
            notes += part.notes
            if unknown := sorted(set(part.members).difference(first.members)):
                raise UserError(
                    f"expected the classes of {self.place(first.folder)}, got {unknown[0]!r} too "
                    f"in {self.place(part.folder)}"
                )
            if missing := sorted(set(first.members).difference(part.members)):
                notes.append(f"{self.place(part.folder)} has no photos of {some_names(missing)}")
            inside = f"{part.folder.path}/"[len(f"{folder.path}/") if folder.path else 0 :]
            for path, name in zip(part.paths, part.names, strict=True):
                # Numbers begin anew in each folder, but cat.7.jpg has its number from Kaggle.
                is_kaggles = split and KAGGLE_NAME.fullmatch(path.rpartition("/")[2])
                if split and part is not first and (name in taken or not is_kaggles):
                    name = f"{SPLITS[split]}/{name}"
                names.append(name)
                paths.append(path if part.folder is folder else inside + path)
            taken.update(names if len(parts) > 1 else ())
            members += part.members
            sides += [split] * len(part.paths)
        how, given = first.how, None
        if len(parts) > 1:
            given = np.array(sides)
            tops = dict.fromkeys(path.partition("/")[0] for path in paths)
            how = f"split from {' and '.join(f'{printable(top)}/' for top in tops)}"
        for note in notes:
            logger.warning(note)
        classes = self.classes or sorted(set(members))
        self.check_classes(classes, set(members), self.root / folder.path)
        number = {name: index for index, name in enumerate(classes)}
        labels = np.array([number[member] for member in members], np.int32)
        summary = f"{how}; {len(classes):,} classes: {some_names(classes)}"
        root = self.root / folder.path
        return Found(root, classes, paths, labels, names, given, summary, _endings(home))

    def check_classes(self, classes, members, root):
        """Raise `UserError` for too few or too many classes, or others than the network's."""
        place = printable(root)
        if unknown := sorted(members.difference(classes)):
            raise UserError(
                f"expected photos of the classes of the network, {some_names(classes)}, got "
                f"{some_names(unknown)} too in {place}"
            )
        if len(classes) < 2:
            raise UserError(
                f"expected photos of two classes or more, got only {classes[0]!r} in {place}; "
                + WAYS
            )
        if len(classes) > MOST_CLASSES:
            raise UserError(
                f"expected at most {MOST_CLASSES:,} classes, got {len(classes):,} in {place}"
            )

    def check_one_layout(self, home):
        """Raise `UserError` if photos lie beside class folders: either may be a mistake."""
        if home.filled and (flat := self.by_name(home, False)):
            raise UserError(
                f"expected one layout in {self.place(home)}, got photos beside the folders "
                f"({printable(flat.paths[0])}) and photos in them ({self.place(home.filled[0])})"
            )

    def left_out(self, home, taken):
        """Return a note on what in a folder is left out, beside the folders that are taken."""
        left = [str(each) for each in home.folders if each not in taken]
        left += [f"{len(home.photos):,} photos beside the folders"] if home.photos else []
        return [f"left out in {self.place(home)}: {some_names(left)}"] if left else []


def _key(folder):
    return class_name(folder.name).casefold()


def _split(folder):
    return split_of(folder.name)


def _are_labels(rows, folder):
    """Return whether what stands before the numbers of all names may be labels."""
    members = {member for _, member, _ in rows}
    labels = {member.casefold() for member in members}
    return (
        len(rows) == len(folder.photos)
        and 2 <= len(labels) <= len(rows) / 2
        and len(labels) == len(members)
        and not labels & NO_LABELS
        and all(split_of(label) is None for label in labels)
    )


def _has_photos(folder):
    return folder.is_dir() and any(each.lower().endswith(SUFFIXES) for each in os.listdir(folder))


# --- Names ----------------------------------------------------------------------------------------


def split_of(folder_name: str) -> int | None:
    """Return which split a folder's name means, as an index into `SPLITS`; None for none."""
    match = SPLIT_NAME.fullmatch(folder_name.lower())
    return match and match.lastindex - 1


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
    match = NUMBER_NAME.fullmatch(path)
    if match and member in ("cat", "dog") and (match[1] or member).lower() == member:
        return f"{member}.{int(match[2])}"
    return nfc(f"{member}/{path}")
