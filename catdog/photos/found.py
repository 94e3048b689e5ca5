"""The labelled photos under a folder, as `index.find` returns them."""

import dataclasses
from pathlib import Path

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass
class Found:
    """The labelled photos under a folder.

    Attributes:
        root: the folder that `paths` are relative to.
        classes: names of the classes, sorted.
        paths: (n,) path of each photo, with forward slashes.
        labels: (n,) int, index into `classes`.
        names: (n,) what identifies each photo in any layout, such as `cat.7`.
        given: (n,) int, index into `SPLITS`, the split that the user's folders say, or None if
            there are no such folders beside train/.
    """

    root: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    names: list[str]
    given: np.ndarray | None = None
