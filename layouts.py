"""The layouts in which people keep labelled photos: which files there are, of which class."""

import dataclasses
import os
import re
import sys
from pathlib import Path

import numpy as np

import photos
from terminal import UserError, printable, say

KAGGLE_NAME = re.compile(r"(cat|dog)\.(\d+)\.\w+", re.IGNORECASE)
NUMBER_NAME = re.compile(r"(?:(cat|dog)\.)?(\d+)\.\w+", re.IGNORECASE)
NOT_CLASSES = {"demo", "cache", "train", "test", "test1", "validation", "val", "petimages"}


@dataclasses.dataclass
class Found:
    """The labelled photos under a folder.

    root: the folder that `paths` are relative to; labels: (n,) int, index into `classes`;
    names: what identifies each photo whatever the layout, such as `cat.7`.
    """

    root: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    names: list[str]


def find(data_dir, cache_dir=None):
    """Finds the labelled photos under `data_dir`; the first of these layouts that fits wins.

    Kaggle's `train/cat.0.jpg`, Microsoft's `PetImages/Cat/0.jpg` (both also one folder further
    down), then one folder a class: `train/cats/...` or `cats/...`.

    Returns:
        A `Found`, or None where there is no labelled photo.
    Raises:
        UserError: `data_dir` is no folder, or holds photos of one class only.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data-dir: expected a folder, got {printable(data_dir)}")
    try:
        return _find(Path(data_dir), cache_dir)
    except OSError as error:
        raise UserError(
            f"--data-dir: cannot read {printable(error.filename)}: {error.strerror}"
        ) from None


def _find(root, cache_dir):
    ignored = {Path(cache_dir).resolve()} if cache_dir else set()

    def folders(parent):
        if not parent.is_dir():
            return []
        entries = sorted(entry.path for entry in os.scandir(parent) if entry.is_dir())
        paths = [Path(path) for path in entries if not Path(path).name.startswith(".")]
        return [path for path in paths if path.resolve() not in ignored]

    def class_folders(parent):
        return [path for path in folders(parent) if path.name.lower() not in NOT_CLASSES]

    for base in [root, *class_folders(root)]:
        # Photos named cat.N in a folder below are those of a class folder, such as cats/cat.0.jpg.
        for folder in (base / "train", base) if base is root else (base / "train",):
            if found := _find_flat(folder):
                return found
        if found := _find_folders(base / "PetImages", class_folders(base / "PetImages")):
            return found
    if found := _find_folders(root / "train", class_folders(root / "train")):
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
    return _found(folder, paths, members, names)


def _find_folders(root, folders):
    paths, members, names = [], [], []
    for folder in folders:
        member = class_name(folder.name)
        for path in photos.find_files(folder):
            below = path[len(f"{folder}/") :].replace(os.sep, "/")
            paths.append(f"{folder.name}/{below}")
            members.append(member)
            names.append(identity(member, below))
    return _found(root, paths, members, names) if paths else None


def _found(root, paths, members, names):
    classes = sorted(set(members))
    if len(classes) < 2:
        raise UserError(
            f"--data-dir: expected photos of two classes or more, got only {classes[0]!r} "
            f"in {printable(root)}"
        )
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[member] for member in members], np.int32)
    return Found(Path(root), classes, paths, labels, names)


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
