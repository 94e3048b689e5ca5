"""A submission to Kaggle's Dogs vs. Cats, of either edition: a label for each unlabelled photo."""

import logging
import os
import re
from pathlib import Path

import numpy as np

from catdog import files
from catdog.errors import UserError
from catdog.photos.photo import SUFFIXES

logger = logging.getLogger(__name__)
NUMBERED = re.compile(r"(\d+)\.\w+", re.ASCII)
IDS = 12_500  # photos of the competition
UNREADABLE = {"accuracy": 0, "log-loss": 0.5}  # what an unreadable photo is submitted as, by metric


def find(folder: str) -> dict[int, str]:
    """Return {id: path} of the photos in `folder`/test1, `folder`/test or `folder`, by id."""
    for base in (Path(folder, "test1"), Path(folder, "test"), Path(folder)):
        try:
            names = sorted(os.listdir(base))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError(f"cannot list {base}: {error.strerror}") from None
        found = {}
        for name in names:
            if not name.lower().endswith(SUFFIXES) or not (match := NUMBERED.fullmatch(name)):
                continue
            if (number := int(match[1])) in found:
                raise UserError(f"expected one photo of each id, got {found[number]} and {name}")
            found[number] = os.path.join(base, name)
        if found:
            return dict(sorted(found.items()))
    raise UserError(f"expected the folder of Kaggle's test1/1.jpg or test/1.jpg, got {folder}")


def write(path: Path, dogs: dict[int, float | None], metric: str, clip: float) -> None:
    """Write a submission atomically.

    Args:
        dogs: {id: probability of dog, or None if the photo cannot be read}.
        metric: what the edition scores: `accuracy` takes 0 or 1, `log-loss` the probability.
        clip: the least distance of a probability from 0 and 1.
    """
    with files.atomic_file(Path(path)) as temporary, open(temporary, "w") as file:
        file.write("id,label\n")
        for number, dog in sorted(dogs.items()):
            if dog is None:
                dog = UNREADABLE[metric]
            else:
                dog = int(dog > 0.5) if metric == "accuracy" else np.clip(dog, clip, 1 - clip)
            file.write(f"{number},{dog:.6g}\n")
    if len(dogs) != IDS:
        logger.warning(f"Kaggle's competition has {IDS:,} photos, these are {len(dogs):,}.")
