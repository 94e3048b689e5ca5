"""The layouts in which people keep labelled photos: which files there are, of which class."""

import dataclasses
import os
import re
import sys
from pathlib import Path

import numpy as np

from catdog.photos import photo as photos
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable, some_names

KAGGLE_NAME = re.compile(r"(cat|dog)\.(\d+)\.\w+", re.IGNORECASE)
NUMBER_NAME = re.compile(r"(?:(cat|dog)\.)?(\d+)\.\w+", re.IGNORECASE)
NOT_CLASSES = {"demo", "cache", "train", "test", "test1", "validation", "val", "petimages",
               "__macosx"}  # the last is what a Mac adds to its zip files
SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS = {"validation": ("validation", "val", "valid"), "test": ("test",)}  # beside train/
MOST_CLASSES = 1000


@dataclasses.dataclass
class Found:
    """The labelled photos under a folder.

    root: the folder that `paths` are relative to; labels: (n,) int, index into `classes`;
    names: what identifies each photo whatever the layout, such as `cat.7`; given: (n,) int, index
    into `SPLITS`, the split that the user's folders say, or None where there is train/ at most.
    """

    root: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    names: list[str]
    given: np.ndarray | None = None


def find(data_dir, cache_dir=None):
    """Finds the labelled photos under `data_dir`; the first of these layouts that fits wins.

    Kaggle's `train/cat.0.jpg`, Microsoft's `PetImages/Cat/0.jpg` (both also one folder further
    down), then one folder a class: `train/cats/...`, with the user's own split where `validation/`
    or `test/` beside it has folders of the same classes, or `cats/...`.

    Returns:
        A `Found`, or None where there is no labelled photo.
    Raises:
        UserError: `data_dir` is no folder; photos of one class only or of more than `MOST_CLASSES`;
            a class folder without a photo; folders of which it is not clear what they mean.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data-dir: expected a folder, got {printable(data_dir)}")
    try:
        return _find(Path(data_dir), Path(cache_dir).resolve() if cache_dir else None)
    except OSError as error:
        raise UserError(
            f"--data-dir: cannot read {printable(error.filename)}: {error.strerror}"
        ) from None


def _find(root, cache_dir):
    def folders(parent):
        if not parent.is_dir():
            return []
        entries = sorted(Path(entry.path) for entry in os.scandir(parent))
        paths = [path for path in entries if os.path.isdir(path)]  # False for a link in a loop
        return [path for path in paths
                if not path.name.startswith(".") and path.resolve() != cache_dir]

    def class_folders(parent):
        return [path for path in folders(parent) if path.name.lower() not in NOT_CLASSES]

    beside = [*class_folders(root), *folders(root / "PetImages"), *folders(root / "train")]
    for folder, rivals in ((root / "train", folders(root / "train")), (root, beside)):
        if flat := _find_flat(folder):
            _refuse_both(folder, flat[0], rivals)
            return _found(folder, *flat)
    for base in (root, *class_folders(root)):
        # Photos named cat.N in a folder below are those of a class folder, such as cats/cat.0.jpg.
        if base is not root and (flat := _find_flat(base / "train")):
            return _found(base / "train", *flat)
        if found := _find_folders(base / "PetImages", folders(base / "PetImages")):
            return found
    if found := _find_splits(root, folders):
        return found
    found = _find_folders(root, class_folders(root))
    for folder in folders(root) if found else ():
        if folder.name.lower() in ("train", "val", "validation") and any(photos.find_files(folder)):
            say(f"{printable(folder)} is not taken for a class: that name means a split")
    return found


def _find_flat(folder):
    if not folder.is_dir():
        return None
    paths, members, names = [], [], []
    for path in sorted(entry.name for entry in os.scandir(folder)):
        if match := KAGGLE_NAME.fullmatch(path):
            member = sys.intern(match[1].lower())  # one string for a million photos
            paths.append(path)
            members.append(member)
            names.append(f"{member}.{int(match[2])}")
    if not paths:
        return None
    return paths, members, names


def _find_folders(root, folders):
    """The photos of class folders in `root`, or None where none of the folders has any."""
    listed = _list_folders(folders)
    return _found(root, *listed) if listed else None


def _list_folders(folders):
    """Paths below the parent, classes and names of the photos in class folders; None of none."""
    photos_of = {folder: list(photos.find_files(folder)) for folder in folders}
    if not any(photos_of.values()):
        return None
    paths, members, names, seen = [], [], [], {}
    for folder, files in photos_of.items():
        member = class_name(folder.name)
        other = seen.setdefault(member.casefold(), folder)
        if other != folder:
            raise UserError(f"--data-dir: expected one folder for each class, got both "
                            f"{printable(other.name)} and {printable(folder.name)} "
                            f"in {printable(folder.parent)}")
        if not files:
            raise UserError(f"--data-dir: expected photos in every class folder, got none in "
                            f"{printable(folder)}")
        for path in files:
            below = path[len(f"{folder}/") :].replace(os.sep, "/")
            paths.append(f"{folder.name}/{below}")
            members.append(member)
            names.append(identity(member, below))
    return paths, members, names


def _find_splits(root, folders):
    """The photos of `train/<class>/`, with those of the user's own validation and test split."""
    listed = _list_folders(folders(root / "train"))
    if not listed:
        return None
    given = {"train": (root / "train", *listed)}
    classes = set(listed[1])
    for split, folder in _split_folders(root):
        below = folders(folder)
        if not classes & {class_name(path.name) for path in below}:
            if any(photos.find_files(folder)):  # such as a competition's, without labels
                say(f"{printable(folder)} is not taken for a split: it has none of the class "
                    "folders of train")
            continue
        if split in given:
            raise UserError(f"--data-dir: expected one folder for {split}, got both "
                            f"{printable(given[split][0].name)} and {printable(folder.name)} "
                            f"in {printable(root)}")
        listed = _list_folders(below)
        if not listed:
            raise UserError(f"--data-dir: expected photos in {printable(folder)}, got none")
        if unknown := sorted(set(listed[1]) - classes):
            raise UserError(f"--data-dir: expected the classes of {printable(root / 'train')}, got "
                            f"{unknown[0]!r} too in {printable(folder)}")
        if missing := classes - set(listed[1]):
            say(f"{printable(folder)} has no photos of {some_names(sorted(missing))}")
        given[split] = (folder, *listed)
    return _found(*given["train"]) if len(given) == 1 else _join_splits(root, given)


def _join_splits(root, given):
    """The photos of all splits as one `Found`.

    given: for each split its folder, and the paths, classes and names of its photos.
    """
    paths, members, names, sides, taken = [], [], [], [], set()
    for split, (folder, its_paths, its_members, its_names) in given.items():
        for path, name in zip(its_paths, its_names, strict=True):
            paths.append(f"{folder.name}/{path}")
            # Numbers begin anew in each folder, but cat.7.jpg has its number from Kaggle.
            if split != "train" and (name in taken or not KAGGLE_NAME.fullmatch(Path(path).name)):
                name = f"{split}/{name}"
            names.append(name)
        taken.update(names)
        members += its_members
        sides += [SPLITS.index(split)] * len(its_paths)
    return _found(root, paths, members, names, np.array(sides))


def _split_folders(root):
    """(split, folder) of the folders beside `train` that are named after a split."""
    entries = sorted(entry.name for entry in os.scandir(root) if os.path.isdir(entry.path))
    return [(split, root / name) for split, names in SPLIT_FOLDERS.items()
            for name in entries if name.lower() in names]


def _refuse_both(folder, paths, rivals):
    """Raises `UserError` where photos lie loose beside class folders: either may be a mistake."""
    for rival in rivals:
        if any(photos.find_files(rival)):
            raise UserError(
                f"--data-dir: expected one layout in {printable(folder)}, got photos beside the "
                f"folders ({printable(paths[0])}) and photos in them ({printable(rival)})")


def _found(root, paths, members, names, given=None):
    classes = sorted(set(members))
    if len(classes) < 2:
        raise UserError(
            f"--data-dir: expected photos of two classes or more, got only {classes[0]!r} "
            f"in {printable(root)}"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(f"--data-dir: expected at most {MOST_CLASSES:,} classes, got "
                        f"{len(classes):,} in {printable(root)}")
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[member] for member in members], np.int32)
    return Found(Path(root), classes, paths, labels, names, given)


def class_name(folder_name):
    """The class that a folder stands for: its name, but `cat` for Cats and `dog` for dogs."""
    lower = folder_name.lower()
    if lower in ("cat", "cats", "dog", "dogs"):
        return lower.removesuffix("s")
    return printable(folder_name)  # it is shown, drawn, and kept as JSON


def identity(member, path):
    """What identifies a photo in every layout.

    Args:
        member: name of its class.
        path: its path below the class folder, with forward slashes.
    Returns:
        Class and number where the name is one of Kaggle's or Microsoft's (`cat.7`: the two number
        the photos alike), else class and path.
    """
    match = NUMBER_NAME.fullmatch(path)
    if match and member in ("cat", "dog") and (match[1] or member).lower() == member:
        return f"{member}.{int(match[2])}"
    return f"{member}/{path}"
