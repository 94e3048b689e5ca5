"""A submission to Kaggle's Dogs vs. Cats, of either edition: a label for each unlabelled photo."""

import os
import re
from pathlib import Path

import numpy as np

from catdog import files
from catdog.photos import photo as photos
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable

NUMBERED = re.compile(r"(\d+)\.\w+", re.ASCII)
IDS = 12_500
UNREADABLE = 0.5


def find(folder):
    """Returns {id: path} of the photos in `folder`/test1, `folder`/test or `folder`, by id."""
    for base in (Path(folder, "test1"), Path(folder, "test"), Path(folder)):
        try:
            names = sorted(os.listdir(base))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError(f"PHOTO: cannot list {printable(base)}: {error.strerror}") from None
        names = [name for name in names if name.lower().endswith(photos.SUFFIXES)]
        matches = [NUMBERED.fullmatch(name) for name in names]
        found = {}
        for match in filter(None, matches):
            if (number := int(match[1])) in found:
                raise UserError(f"PHOTO: expected one photo of each id, got "
                                f"{printable(found[number])} and {printable(match[0])}")
            found[number] = os.path.join(base, match[0])
        if found:
            return dict(sorted(found.items()))
    raise UserError(f"PHOTO: expected the folder of Kaggle's test1/1.jpg or test/1.jpg, "
                    f"got {printable(folder)}")


def write(path, dogs, metric, clip):
    """Writes a submission, whole or not at all.

    Args:
        dogs: {id: probability of dog, or None where the photo cannot be read}.
        metric: what the edition scores: `accuracy` takes 0 or 1, `log-loss` the probability.
        clip: distance from 0 and 1 that probabilities keep.
    """
    with files.atomic_file(Path(path)) as temporary, open(temporary, "w") as file:
        file.write("id,label\n")
        for number, dog in sorted(dogs.items()):
            if dog is None:
                dog = UNREADABLE
            elif metric == "accuracy":
                dog = int(dog > 0.5)
            else:
                dog = np.clip(dog, clip, 1 - clip)
            file.write(f"{number},{dog:.6g}\n")
    if len(dogs) != IDS:
        say(f"Kaggle's competition has {IDS:,} photos, these were {len(dogs):,}.")
