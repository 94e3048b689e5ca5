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
import dataclasses
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
    r"(?:.*[\W_])?(?:(train(?:ing)?)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?|eval(?:uation)?))"
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


@dataclasses.dataclass
class _Part:
    """Labelled photos in a folder."""

    folder: _Folder
    kind: str  # "folders", "names" or "csv": what their labels come from
    how: str  # the same in words
    paths: list[str] = dataclasses.field(default_factory=list)  # below the folder
    members: list[str] = dataclasses.field(default_factory=list)  # the class of each
    names: list[str] = dataclasses.field(default_factory=list)


# --- The rule -------------------------------------------------------------------------------------


class _Finder:
    """Applies the rule to one data folder. A part of it without labels is None."""

    def __init__(self, data_dir, cache_dir, classes):
        self.root, self.top = Path(data_dir), _list(data_dir, cache_dir)
        self.classes = [class_name(name) for name in classes]
        self.keep = {name.casefold() for name in self.classes}  # such folders are never left out

    def find(self):
        passed = self.shared()
        home, complaint = passed[-1], None
        for folder in passed:
            try:
                if part := self.by_csv(folder, label_files.CSV_NAME):
                    return self.found(home, {0: part})
            except label_files.NotAList as error:
                complaint = error
        parts = self.by_split(home)
        parts = parts or self.only(self.by_folder(home) or self.by_name(home, KAGGLE_NAME))
        if complaint:
            if not parts:
                raise complaint
            logger.warning(f"{complaint}; it is not taken for labels")
        for folder in passed:
            parts = parts or self.only(self.by_csv(folder))
        parts = parts or self.only(self.by_name(home, LABEL_NAME))
        if not parts and len(passed) > 1:  # photos in one folder, without labels: one class
            parts = self.only(self.by_folder(passed[-2]))
        return self.found(home, parts) if parts else None

    def only(self, part):
        return {0: part} if part else {}

    def place(self, folder):
        return printable(self.root / folder.path)

    def key(self, folder):
        return class_name(folder.name).casefold()

    def is_class(self, folder, known=frozenset()):
        return self.key(folder) in self.keep or self.key(folder) in known

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
        """Return the folders that all photos share, from the data folder down.

        Kaggle's train/cat.0.jpg and Microsoft's PetImages/ are looked for one folder further down,
        too, whatever lies beside them.
        """
        passed = self.strip(self.top)
        while sets := [each for each in passed[-1].filled if self.is_set(each)]:
            home = passed[-1]
            if any(
                split_of(each.name) == 0 and self.label(self.strip(each)[-1])
                for each in home.filled
            ):
                break
            if len(sets) > 1:
                names = some_names([each.name for each in sets])
                raise UserError(f"expected one set of photos in {self.place(home)}, got {names}")
            self.check_one_layout(home)
            self.say_left_out(home, sets)
            passed += self.strip(sets[0])
        return passed

    def is_set(self, folder):
        def is_microsofts(folder):
            return folder.name.lower() == "petimages" and folder.filled

        return not self.is_class(folder) and (
            is_microsofts(folder)
            or any(
                is_microsofts(each)
                or (split_of(each.name) == 0 and self.by_name(each, KAGGLE_NAME))
                for each in folder.filled
            )
        )

    def by_split(self, home):
        """Return the photos of each split, by index into `SPLITS`, if folders are named so."""
        named = [each for each in home.filled if split_of(each.name) is not None]
        named = [each for each in named if not self.is_class(each)]
        named.sort(key=lambda each: split_of(each.name))
        # A class may be alone in one split: there it is no folder that all photos share.
        ends = [self.strip(each)[-1].filled for each in named]
        known = {self.key(each) for end in ends for each in end if len(end) > 1}
        # Beside folders of photos, train/ is a class unless it has class folders of its own.
        alone = not any(each.photos for each in home.filled if each not in named)
        parts, folders = {}, {}
        for folder in named:
            split, part = split_of(folder.name), self.label(self.strip(folder, known)[-1], alone)
            if split and not parts and not self.keep:
                if part and len(named) == len(home.filled):
                    raise UserError(
                        f"expected a folder of training photos in {self.place(home)}, got only "
                        f"{some_names([each.name for each in named])}"
                    )
                break
            if part and parts and not set(part.members) & set(next(iter(parts.values())).members):
                part = None
            if part is None and parts:  # such as a competition's test photos
                logger.warning(
                    f"{self.place(folder)} is not taken for a split: it has none of the classes "
                    f"of {printable(next(iter(folders.values())).name)}"
                )
            elif part and split in parts:
                raise UserError(
                    f"expected one folder for {SPLITS[split]}, got both "
                    f"{printable(folders[split].name)} and {printable(folder.name)} in "
                    f"{self.place(home)}"
                )
            elif part:
                parts[split], folders[split] = part, folder
        if parts:
            if any(part.kind == "folders" for part in parts.values()):
                self.check_one_layout(home)
            self.say_left_out(home, named)
        return parts

    def label(self, folder, general=True):
        """Return the photos of a folder with the labels that its folders, names or CSV file say."""
        return (
            self.by_folder(folder)
            or self.by_name(folder, KAGGLE_NAME)
            or self.by_csv(folder)
            or (self.by_name(folder, LABEL_NAME) if general else None)
        )

    def class_folders(self, home):
        """Return the folders that may be classes: none if all are named like splits."""
        folders = [each for each in home.filled if each.name.lower() not in UNLABELLED]
        if all(split_of(each.name) is not None and not self.is_class(each) for each in folders):
            return []
        return folders

    def by_folder(self, home):
        """Return the photos of the folders in a folder, each of which is a class."""
        self.check_one_layout(home)
        folders = self.class_folders(home)
        # One folder beside photos is no class: a folder in which some of them were put.
        if not folders or (len(folders) == 1 and home.photos and not self.is_class(folders[0])):
            return None
        part, of_key = _Part(home, "folders", f"classes from the folders in {self.place(home)}"), {}
        for folder in folders:
            other = of_key.setdefault(self.key(folder), folder)
            if nfc(other.name) != nfc(folder.name):
                raise UserError(
                    f"expected one folder for each class, got both {printable(other.name)} and "
                    f"{printable(folder.name)} in {self.place(home)}"
                )
            member = sys.intern(class_name(folder.name))
            for path in folder.paths():
                part.paths.append(f"{folder.name}/{path}")
                part.members.append(member)
                part.names.append(identity(member, path))
        empty = [each for each in home.folders if not each.files and not self.keep]
        if empty:
            raise UserError(
                f"expected photos in every class folder, got none in {self.place(empty[0])}"
            )
        return part

    def by_name(self, folder, pattern):
        """Return the photos directly in a folder whose names have a label: of `LABEL_NAME`, all."""
        part = _Part(folder, "names", "labels from names such as {}")
        for path in folder.photos:
            if match := pattern.fullmatch(path):
                member = sys.intern(class_name(match[1] or match[2]))  # one string for a million
                part.paths.append(path)
                part.members.append(member)
                part.names.append(identity(member, path))
        if not part.paths or (pattern is LABEL_NAME and not _are_labels(part)):
            return None
        part.how = part.how.format(printable(part.paths[0]))
        return part

    def by_csv(self, folder, name=None):
        """Return the photos of a folder that a CSV file in it gives a label: that of this name.

        Without a name, a file that is no list of photos is passed over; one that has "train" or
        "label" in its name goes before others.
        """
        files = [each for each in folder.others if each.lower().endswith((".csv", ".tsv"))]
        if name:
            files = [each for each in files if each.lower() == name]
        files.sort(key=lambda each: not re.search("train|label", each.lower()))
        for file in files if folder.count else ():
            path = self.root / folder.path / file
            try:
                label_of, how = label_files.read_csv(path, list(folder.paths()))
            except label_files.NotAList:
                if name:
                    raise
                continue
            if not name and len(set(label_of.values())) < 2:  # such as an empty submission
                continue
            paths = sorted(label_of)
            members = [label_of[path] for path in paths]
            # The path alone: a corrected label must not move the photo to another split.
            return _Part(folder, "csv", how, paths, members, list(map(nfc, paths)))
        return None

    def found(self, home, parts):
        """Return the photos of the parts: of one alone, or of each split."""
        classes = sorted({member for part in parts.values() for member in part.members})
        if len(parts) == 1:
            (part,) = parts.values()
            found = Found(self.root / part.folder.path, classes, part.paths, None, part.names)
            members, how = part.members, part.how
            self.say_rest(part)
        else:
            found, members = self.joined(home, classes, parts)
            folders = [f"{printable(path.split('/')[0])}/" for path in found.paths]
            how = f"split from {' and '.join(dict.fromkeys(folders))}"
        if self.classes:
            if unknown := sorted(set(classes) - set(self.classes)):
                raise UserError(
                    f"expected photos of the classes of the network, {some_names(self.classes)}, "
                    f"got {some_names(unknown)} too in {printable(found.root)}"
                )
            found.classes = classes = self.classes
        elif len(classes) < 2:
            raise UserError(
                f"expected photos of two classes or more, got only {classes[0]!r} in "
                f"{printable(found.root)}; {WAYS}"
            )
        elif len(classes) > MOST_CLASSES:
            raise UserError(
                f"expected at most {MOST_CLASSES:,} classes, got {len(classes):,} in "
                f"{printable(found.root)}"
            )
        number = {name: index for index, name in enumerate(classes)}
        found.labels = np.array([number[member] for member in members], np.int32)
        found.summary = f"{how}; {len(classes):,} classes: {some_names(classes)}"
        found.others = _endings(home)
        return found

    def joined(self, home, classes, parts):
        """Return the photos of all splits, without labels, and the class of each."""
        paths, members, names, sides, taken = [], [], [], [], set()
        start = len(f"{home.path}/") if home.path else 0
        train = set(parts[min(parts)].members)
        for split, part in sorted(parts.items()):
            place = self.place(part.folder)
            if unknown := sorted(set(part.members) - train):
                raise UserError(
                    f"expected the classes of {self.place(parts[min(parts)].folder)}, got "
                    f"{unknown[0]!r} too in {place}"
                )
            if missing := sorted(train - set(part.members)):
                logger.warning(f"{place} has no photos of {some_names(missing)}")
            for path, name in zip(part.paths, part.names, strict=True):
                # Numbers begin anew in each folder, but cat.7.jpg has its number from Kaggle.
                is_kaggles = KAGGLE_NAME.fullmatch(path.rpartition("/")[2])
                if split > 0 and (name in taken or not is_kaggles):
                    name = f"{SPLITS[split]}/{name}"
                names.append(name)
                paths.append(f"{part.folder.path[start:]}/{path}")
            taken.update(names)
            members += part.members
            sides += [split] * len(part.paths)
        return Found(self.root / home.path, classes, paths, None, names, np.array(sides)), members

    # What the rule leaves out, and what it cannot decide.

    def check_one_layout(self, home):
        """Raise `UserError` if photos lie beside class folders: either may be a mistake."""
        if home.filled and (flat := self.by_name(home, KAGGLE_NAME)):
            raise UserError(
                f"expected one layout in {self.place(home)}, got photos beside the folders "
                f"({printable(flat.paths[0])}) and photos in them ({self.place(home.filled[0])})"
            )

    def say_left_out(self, home, taken):
        """Say what in a folder is left out, other than the folders that are taken."""
        left = [str(each) for each in home.folders if each not in taken]
        left += [f"{len(home.photos):,} photos beside the folders"] if home.photos else []
        if left:
            logger.warning(f"left out in {self.place(home)}: {some_names(left)}")

    def say_rest(self, part):
        """Say what beside a part is left out, and which folders are classes in spite of a name."""
        home = part.folder
        if part.kind != "folders":
            if (
                without := sorted(set(home.photos) - set(part.paths))
                if part.kind == "names"
                else ()
            ):
                logger.warning(f"left out, as their names have no label: {some_names(without)}")
            return
        folders = self.class_folders(home)
        self.say_left_out(home, folders)
        hidden = [path for path in (self.root / home.path).glob(".*") if _has_photos(path)]
        if names := sorted(path.name for path in hidden if path.name.lower() not in TOOLS):
            logger.warning(f"left out in {self.place(home)} as hidden: {some_names(names)}")
        odd = [each.name for each in folders if split_of(each.name) is not None]
        odd += [each.name for each in folders if each.name.lower() in ("demo", "cache")]
        if odd:
            logger.warning(
                f"taken for classes in {self.place(home)}: {some_names(odd)}; if they are none, "
                "move them elsewhere"
            )


def _are_labels(part):
    """Return whether what stands before the numbers of all names may be labels."""
    labels = {member.casefold() for member in part.members}
    return (
        len(part.paths) == len(part.folder.photos)
        and 2 <= len(labels) <= len(part.paths) / 2
        and len(labels) == len(set(part.members))
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
