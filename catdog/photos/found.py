"""What `index.find` returns."""

import dataclasses
import re
from pathlib import Path

import numpy as np

SPLITS = ("train", "validation", "test")
TRAIN, TEST = 0, 2  # indices into SPLITS
# The last word of a name that means a split, in the order of SPLITS: training_set, train2017 ...
SPLIT_NAME = re.compile(
    r"(?:.*[_-])?(?:(train(?:ing)?)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?|eval(?:uation)?))"
    r"(?:[\W_]?(?:set|data|images?|photos?|split))?(?:[\W_]?\d{4})?"
)
MOST_CLASSES = 1000


@dataclasses.dataclass
class Found:
    """The labelled photos under a folder."""

    root: Path  # the folder that `paths` are relative to
    classes: list[str]  # sorted
    paths: list[str]  # (n,), with forward slashes
    labels: np.ndarray  # int (n,), index into `classes`
    names: list[str]  # (n,) what identifies each photo in any layout, such as `cat.7`
    given_split: np.ndarray | None = None  # (n,), index into `SPLITS`, if the user says it
    summary: str = ""  # one line: where labels and split come from, and the classes
    # Files that are no photos:
    others: dict[str, int] = dataclasses.field(default_factory=dict)  # number by ending


def split_of(name: str) -> int | None:
    """Return which split the name of a folder means, as an index into `SPLITS`; None for none."""
    match = SPLIT_NAME.fullmatch(name.lower())
    return match and match.lastindex - 1
