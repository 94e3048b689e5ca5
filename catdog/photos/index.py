"""Finds labelled photos in the layouts in which people keep them: which files, of which class."""

import logging
import os
import re
import sys
from pathlib import Path

import numpy as np

from catdog.errors import UserError
from catdog.files import printable, some_names
from catdog.photos.found import SPLITS, Found
from catdog.photos.labels import read_csv_layout
from catdog.photos.photo import find_files

logger = logging.getLogger(__name__)

KAGGLE_NAME = re.compile(r"(cat|dog)\.(\d+)\.\w+", re.IGNORECASE)
NUMBER_NAME = re.compile(r"(?:(cat|dog)\.)?(\d+)\.\w+", re.IGNORECASE)
NOT_CLASSES = {"demo", "cache", "train", "test", "test1", "validation", "val", "petimages"}
NOT_CLASSES.add("__macosx")  # macOS adds this folder to its zip files
SPLIT_FOLDERS = {"validation": ("validation", "val", "valid"), "test": ("test",)}  # beside train/
MOST_CLASSES = 1000


# --- Layouts --------------------------------------------------------------------------------------


def find(data_dir: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> Found | None:
    """Find the labelled photos under `data_dir`. The first layout that matches is used.

    0. A file `labels.csv` that names photos and their labels, see `labels.read_csv_layout`.
    1. Kaggle's `train/cat.0.jpg`, also one folder further down.
    2. Microsoft's `PetImages/Cat/0.jpg`, also one folder further down.
    3. One folder per class in `train/`, such as `train/cats/...`. If `validation/` or `test/`
       beside it has folders of the same classes, they are the user's own split.
    4. One folder per class, such as `cats/...`.

    Args:
        cache_dir: folder of decoded photos, which is not taken for a class.
    Returns:
        The photos, or None if there are no labelled photos.
    Raises:
        UserError: `data_dir` is not a folder; photos of only one class or of more than
            `MOST_CLASSES`; a class folder without photos; folders whose meaning is not clear.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"expected a folder, got {printable(data_dir)}")
    try:
        return _find(Path(data_dir), Path(cache_dir).resolve() if cache_dir else None)
    except OSError as error:
        raise UserError(f"cannot read {printable(error.filename)}: {error.strerror}") from None


def _find(root, cache_dir):
    def folders(parent):
        if not parent.is_dir():
            return []
        entries = sorted(Path(entry.path) for entry in os.scandir(parent))
        paths = [path for path in entries if os.path.isdir(path)]  # False for a link in a loop
        return [
            path for path in paths if not path.name.startswith(".") and path.resolve() != cache_dir
        ]

    def class_folders(parent):
        return [path for path in folders(parent) if path.name.lower() not in NOT_CLASSES]

    if listed := read_csv_layout(root):
        return _found(root, *listed)
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
        if folder.name.lower() in ("train", "val", "validation") and any(find_files(folder)):
            logger.warning(f"{printable(folder)} is not taken for a class: that name means a split")
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
    """Return the photos of class folders in `root`, or None if none of the folders has any."""
    listed = _list_folders(folders)
    return _found(root, *listed) if listed else None


def _list_folders(folders):
    """Return paths below the parent, classes and names of the photos in class folders, or None."""
    photos_of = {folder: list(find_files(folder)) for folder in folders}
    if not any(photos_of.values()):
        return None
    paths, members, names, seen = [], [], [], {}
    for folder, files in photos_of.items():
        member = class_name(folder.name)
        other = seen.setdefault(member.casefold(), folder)
        if other != folder:
            raise UserError(
                f"expected one folder for each class, got both "
                f"{printable(other.name)} and {printable(folder.name)} "
                f"in {printable(folder.parent)}"
            )
        if not files:
            raise UserError(
                f"expected photos in every class folder, got none in {printable(folder)}"
            )
        for path in files:
            below = path[len(f"{folder}/") :].replace(os.sep, "/")
            paths.append(f"{folder.name}/{below}")
            members.append(member)
            names.append(identity(member, below))
    return paths, members, names


def _find_splits(root, folders):
    """Return the photos of `train/<class>/` and of the user's own validation and test split."""
    listed = _list_folders(folders(root / "train"))
    if not listed:
        return None
    given = {"train": (root / "train", *listed)}
    classes = set(listed[1])
    for split, folder in _split_folders(root):
        below = folders(folder)
        if not classes & {class_name(path.name) for path in below}:
            if any(find_files(folder)):  # such as a competition's, without labels
                logger.warning(
                    f"{printable(folder)} is not taken for a split: it has none of the class "
                    "folders of train"
                )
            continue
        if split in given:
            raise UserError(
                f"expected one folder for {split}, got both "
                f"{printable(given[split][0].name)} and {printable(folder.name)} "
                f"in {printable(root)}"
            )
        listed = _list_folders(below)
        if not listed:
            raise UserError(f"expected photos in {printable(folder)}, got none")
        if unknown := sorted(set(listed[1]) - classes):
            raise UserError(
                f"expected the classes of {printable(root / 'train')}, got "
                f"{unknown[0]!r} too in {printable(folder)}"
            )
        if missing := classes - set(listed[1]):
            logger.warning(f"{printable(folder)} has no photos of {some_names(sorted(missing))}")
        given[split] = (folder, *listed)
    return _found(*given["train"]) if len(given) == 1 else _join_splits(root, given)


def _join_splits(root, given):
    """Return the photos of all splits, given as (folder, paths, classes, names), as one `Found`."""
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
    """Return (split, folder) of the folders beside `train` that are named after a split."""
    entries = sorted(entry.name for entry in os.scandir(root) if os.path.isdir(entry.path))
    return [
        (split, root / name)
        for split, names in SPLIT_FOLDERS.items()
        for name in entries
        if name.lower() in names
    ]


def _refuse_both(folder, paths, rivals):
    """Raise `UserError` if photos lie beside class folders: either may be a mistake."""
    for rival in rivals:
        if any(find_files(rival)):
            raise UserError(
                f"expected one layout in {printable(folder)}, got photos beside the "
                f"folders ({printable(paths[0])}) and photos in them ({printable(rival)})"
            )


def _found(root, paths, members, names, given=None):
    classes = sorted(set(members))
    if len(classes) < 2:
        raise UserError(
            f"expected photos of two classes or more, got only {classes[0]!r} in {printable(root)}"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"expected at most {MOST_CLASSES:,} classes, got {len(classes):,} in {printable(root)}"
        )
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[member] for member in members], np.int32)
    return Found(Path(root), classes, paths, labels, names, given)


# --- Names ----------------------------------------------------------------------------------------


def class_name(folder_name: str) -> str:
    """Return the class of a folder: its name, but `cat` for Cats and `dog` for dogs."""
    lower = folder_name.lower()
    if lower in ("cat", "cats", "dog", "dogs"):
        return lower.removesuffix("s")
    return printable(folder_name)  # it is shown, drawn, and kept as JSON


def identity(member: str, path: str) -> str:
    """Return what identifies a photo in every layout.

    It is class and number (`cat.7`) if the name is one of Kaggle's or Microsoft's, which number the
    photos alike; otherwise class and path below the class folder.
    """
    match = NUMBER_NAME.fullmatch(path)
    if match and member in ("cat", "dog") and (match[1] or member).lower() == member:
        return f"{member}.{int(match[2])}"
    return f"{member}/{path}"
