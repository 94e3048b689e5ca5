"""A run directory: the settings, weights and history of one training run.

    config.json     settings, folders, excluded and relabelled photos, classes, score_size, splits,
                    digest, versions; of the trained network: files, temperature, clip, answer
    history.csv     one row per epoch
    curves.png      the same, drawn
    model-*.keras   the averaged weights after the last epoch, in float32, with the calibration and
                    the novelty fitted to them (see answer.py); until then, model.keras
    model-*.tflite  the same as LiteRT, with which predict.py starts at once
    trained_on.npy  which photos the network was trained on, as hashes of their names and looks
    metrics.json    the scores on validation and test; written last, it marks a finished run
    checkpoint.npz  while training: everything that a resumed run needs

Every file but .lock is written atomically. A run directory may come from somebody else, so what is
read is checked first.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import functools
import io
import itertools
import json
import logging
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog import backend, files
from catdog.backend import keras
from catdog.errors import UserError
from catdog.photos import alike
from catdog.photos.found import MOST_CLASSES
from catdog.runs import novelty
from catdog.training.settings import Settings

logger = logging.getLogger(__name__)
# The run that comes with the project: in the clone, or in the package that pip installed.
WEIGHTS = next(
    (path for up in (2, 1) if (path := Path(__file__).parents[up] / "weights").is_dir()),
    Path(__file__).parents[2] / "weights",
)
TO_RESUME = ("config.json", "checkpoint.npz", "metrics.json")  # sent by process 0 to the others
NETWORK = re.compile(r"model(-[0-9a-f]{8})?\.(keras|tflite)")  # names of the files of a network
PLACES = {"data_dir": "../tmp", "cache_dir": "../tmp/cache"}  # defaults, relative to the run

MAX_SCORE_SIZE = 1280  # px: the largest image_size times the largest score_scale
# From this share on, photos that look exactly like training photos are taken for renamed copies.
# (Of 4,472 held-out photos of Dogs vs. Cats, 5 look so, and are copies.)
MANY_ALIKE = 0.01
MAX_TEXT = 2**26  # bytes of config.json; the names of a million excluded photos fit in


def new_folder() -> str:
    """Return runs/<date-time>, or with -2, -3 ... added if that folder exists."""
    dated = f"runs/{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    numbered = itertools.chain([dated], (f"{dated}-{count}" for count in itertools.count(2)))
    return next(each for each in numbered if not os.path.lexists(each))


class Run:
    """A run directory. Of several processes, only the first may write into it.

    `write_config`, `held` and `save` write nothing in the others. Check `writes` before calling
    other methods that write.

    Args:
        folder: the run directory; by default the one that comes with the project.
        name: the folder as it was typed, if `folder` is a copy; for messages and relative paths.
    Attributes:
        writes: whether this process writes.
    """

    def __init__(self, folder: Path | str | None = None, name: Path | str | None = None):
        if folder is None:
            here = WEIGHTS.is_relative_to(Path.cwd())
            folder = WEIGHTS.relative_to(Path.cwd()) if here else WEIGHTS
        self.folder = Path(folder)
        self.name = Path(name or folder)
        self.writes = backend.index() == 0

    def __fspath__(self) -> str:
        return str(self.name)

    __str__ = __fspath__

    # --- config.json ------------------------------------------------------------------------------

    @functools.cached_property
    def config(self) -> dict:
        """The content of `config.json`.

        Raises:
            UserError: it is missing, cannot be read, or a field is wrong.
        """
        path = self.folder / "config.json"
        config = _read(path, lambda: _checked(json.loads(path.read_bytes())), MAX_TEXT)
        if config is None:
            raise UserError(f"expected a run directory with a config.json, got {self}")
        return config

    def write_config(self, config: dict) -> None:
        """Replace `config.json`."""
        self.config = _checked(config)
        if self.writes:
            files.write_json(self.folder / "config.json", config)

    def describe(self, settings: Settings, dataset, places: dict, lists: dict) -> None:
        """Write `config.json` of a new or resumed run.

        Args:
            dataset: the `data.Dataset` to train on.
            places: `data_dir` and `cache_dir`, absolute or relative to the current folder.
            lists: `exclude` and `relabel`, as for `data.load`.
        """
        config = {
            "settings": dataclasses.asdict(settings),
            **{name: _relative(path, Path.cwd(), self.name) for name, path in places.items()},
            **lists,
            "classes": dataset.classes,
            "score_size": settings.score_size,
            "splits": dataset.split_sizes(),
            "digest": dataset.digest(),
            "skipped": len(dataset.skipped),
            "versions": backend.versions(),
        }
        self.write_config(config)

    def place(self, name: str) -> str:
        """Return `data_dir` or `cache_dir`, absolute or relative to the current folder."""
        return _relative(str(self.config.get(name, PLACES[name])), self.name, Path.cwd())

    @property
    def lists(self) -> dict:
        """`exclude` and `relabel`, as for `data.load`."""
        return {name: self.config[name] for name in ("exclude", "relabel") if name in self.config}

    @property
    def settings(self) -> Settings:
        """The settings in `config.json`, without those that this release does not know."""
        return Settings.from_dict(self.config.get("settings", {}))

    @property
    def novelty_photos(self) -> int:
        """The number of validation photos behind its novelty; 0 for a run without novelty."""
        return self.config.get("answer", {}).get("scores", 0)

    @property
    def has_novelty(self) -> bool:
        return self.novelty_photos > 0

    # --- State ------------------------------------------------------------------------------------

    def has_checkpoint(self) -> bool:
        return os.path.exists(self.folder / "checkpoint.npz")  # False in a closed folder

    def is_finished(self) -> bool:
        return os.path.exists(self.folder / "metrics.json")

    def has_begun(self) -> bool:
        return self.is_finished() or self.has_checkpoint()

    def network_files(self) -> list[Path]:
        """Return the files that hold a network."""
        return [path for path in self.folder.glob("model*") if NETWORK.fullmatch(path.name)]

    def check_trained(self) -> None:
        """Raise UserError unless there is a run with a trained network."""
        if self.config and not self.network_files():
            wrong = f"expected a finished run, got {self} without a model.keras"
            raise UserError(wrong + self._how_to_continue())

    def _how_to_continue(self):
        return f"; to continue it:  {self.completed_by()}" if self.has_checkpoint() else ""

    def completed_by(self) -> str:
        """Return the command that completes this run: resume it, or export its network again."""
        if self.has_checkpoint():
            return f"python train.py --resume {files.quoted(self)}"
        return f"python model.py --export litert --model {files.quoted(self)}"

    @contextlib.contextmanager
    def held(self, new: bool = False) -> Iterator[None]:
        """Hold the run in this block, so that no other process trains into it.

        Args:
            new: whether the run is new. Folders that are made are removed if they stay empty.
        Raises:
            UserError: another process holds it, or the run neither has a checkpoint nor may begin
                here, as other files would be lost.
        """
        if not self.writes:
            yield
            return
        if new or not self.has_checkpoint():
            names = {path.name for path in self.folder.glob("[!.]*")}
            # With config.json alone, the run ended before its first checkpoint and may start again.
            # `config` raises UserError if it cannot be used.
            if names and (names != {"config.json"} or not self.config):
                wanted = "a new folder" if new else "a run with a checkpoint.npz or metrics.json"
                wrong = f"expected {wanted}, got {self}, which has other files"
                raise UserError(wrong + self._how_to_continue())
        made = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {self}: {error.strerror}") from None
        try:
            with files.lock(self.folder / ".lock"):
                yield
        finally:
            with contextlib.suppress(OSError):  # it is not empty
                for each in made:
                    each.rmdir()

    def finish(self, metrics: dict) -> None:
        """Mark the run as finished and remove its checkpoint."""
        files.write_json(self.folder / "metrics.json", metrics)
        self.clean()

    def clean(self) -> None:
        """Remove the checkpoint of a finished run, and the temporary files of killed processes."""
        (self.folder / "checkpoint.npz").unlink(missing_ok=True)
        files.remove_leftovers(self.folder)

    def metrics(self) -> dict | None:
        """Return the content of `metrics.json`; None if it is missing or damaged."""
        path = self.folder / "metrics.json"
        return _read_if_whole(path, lambda: json.loads(path.read_bytes()), MAX_TEXT)

    # --- History and checkpoint -------------------------------------------------------------------

    def history(self) -> list[dict[str, str]]:
        """Return the rows of `history.csv`, values as text; none if there is no such file."""
        path = self.folder / "history.csv"

        def parse():
            return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))

        return _read_if_whole(path, parse, MAX_TEXT) or []

    def save(self, history: Sequence[dict], arrays: Sequence[np.ndarray]) -> None:
        """Write a checkpoint, and the history as `history.csv`.

        Args:
            history: a row of numbers per epoch, with the same keys.
            arrays: the state of the network and its optimizer, as for `restore`.
        """
        if not self.writes:
            return
        named = {f"array{i}": array for i, array in enumerate(arrays)}
        with files.atomic_file(self.folder / "checkpoint.npz") as temporary:
            np.savez(temporary, history=np.array(json.dumps(history)), **named)
        with (
            files.atomic_file(self.folder / "history.csv") as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, history[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)

    def restore(self, restore_arrays: Callable[[list[np.ndarray]], None]) -> list[dict]:
        """Return the history of the checkpoint, if there is one, and hand over its arrays.

        Raises:
            UserError: it is damaged, or its arrays are not accepted.
        """
        path = self.folder / "checkpoint.npz"

        def parse():
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_size != entry.file_size for entry in archive.infolist()):
                    raise ValueError("compressed")  # it may unpack to far more than its size
            with np.load(path, allow_pickle=False) as file:
                history = json.loads(str(file["history"]))
                arrays = [file[f"array{i}"] for i in range(len(file.files) - 1)]
            if not _is_history(history):
                raise ValueError("expected rows of numbers")
            restore_arrays(arrays)
            return history

        try:
            return _read(path, parse) or []
        except UserError as error:
            raise UserError(f"{error}; without that file training begins anew") from None

    # --- The trained network ----------------------------------------------------------------------

    def save_network(self, network: keras.Model) -> None:
        """Write `model.keras`, which `export.export` replaces next: see `switch`."""
        with files.atomic_file(self.folder / "model.keras") as temporary:
            network.save(temporary)

    def network_file(self, suffix: str) -> Path:
        """Return the file of the network that ends in `suffix`, ".keras" or ".tflite".

        Raises:
            UserError: its sha256 is not the one in `config.json`.
        """
        named = self.config.get("files", {})
        name = next((each for each in named if each.endswith(suffix)), f"model{suffix}")
        # Runs of an earlier release have litert_sha256.
        old = self.config.get("litert_sha256") if suffix == ".tflite" else None
        digest, path = named.get(name, old), self.folder / name
        if digest and path.exists():
            with files.reading(path):
                files.check_readable(path)
                if files.sha256(path) != digest:
                    raise ValueError("its sha256 is not that of config.json; model.py exports anew")
        return path

    def switch(self, new: Sequence[Path], **changes: object) -> None:
        """Replace the network. At any time, `config.json` names a complete set of files.

        Args:
            new: the files, on the same disk as the run; they are moved there.
            changes: new values in `config.json`.
        """
        named = {}
        for path in new:
            digest = files.sha256(path)
            name = f"model-{digest[:8]}{path.suffix}"
            with files.atomic_file(self.folder / name) as temporary:
                path.rename(temporary)
            named[name] = digest
        config = {**self.config, **changes, "files": named}
        config.pop("litert_sha256", None)
        self.write_config(config)
        for path in [*self.network_files(), self.folder / "novelty.npz"]:
            if path.name not in named:
                path.unlink(missing_ok=True)

    def write_trained_on(self, identities: np.ndarray, init: str | None = None) -> None:
        """Write which photos the network was trained on, and those that `init` was trained on.

        Args:
            identities: (n, 2) uint64, hashes of the names and of the looks of the photos.
        """
        before = None if init is None else Run(init)._known
        known = identities if before is None else np.concatenate([identities, before])
        with files.atomic_file(self.folder / "trained_on.npy") as temporary:
            np.save(temporary, np.unique(known, axis=0))

    def trained_on(self, identities: np.ndarray, renamed: bool = False) -> np.ndarray | None:
        """Return (n,) bool, whether the network was trained on each photo; None if not known.

        It was if a training photo has the same name and looks alike. The name alone is not enough:
        other photos may be called cat.0. The bytes may differ: a photo may be encoded again.

        Args:
            renamed: also count photos that look exactly like a training photo of another name, if
                at least a share of `MANY_ALIKE` do. (Different pictures of 8x8 pixels may, too.)
        """
        known = self._known
        if known is None:
            return None
        names, looks = identities.T
        first = np.searchsorted(known[:, 0], names, "left")
        count = np.searchsorted(known[:, 0], names, "right") - first
        found = np.zeros(len(names), bool)
        # Several training photos may share a name: compare with the first of each, then the second.
        for place in range(count.max(initial=0)):
            rows = known[np.minimum(first + place, len(known) - 1)]
            found |= (place < count) & alike.are_near(rows[:, 1], looks)
        # What several of them share is the look of plain drawings, not of one photo.
        known_looks, times = np.unique(known[:, 1], return_counts=True)
        same = np.isin(looks, known_looks[times == 1])
        return found | same if renamed and same.mean() >= MANY_ALIKE else found

    @functools.cached_property
    def _known(self):
        path = self.folder / "trained_on.npy"

        def parse():
            hashes = np.load(path, allow_pickle=False)
            if hashes.dtype != np.uint64 or hashes.shape[1:] != (2,):
                raise ValueError("expected pairs of hashes")
            return hashes

        return _read_if_whole(path, parse)


# --- Reading --------------------------------------------------------------------------------------


def _read(path: Path, parse: Callable[[], object], most: int = files.MOST_BYTES) -> object:
    """Return what `parse` makes of a file of a run, or None if there is no such file."""
    with files.reading(path):
        try:
            files.check_readable(path, most)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return parse()


def _read_if_whole(path: Path, parse: Callable[[], object], most: int = files.MOST_BYTES) -> object:
    """Do what `_read` does for a file that is not needed: if it is damaged, warn, return None."""
    try:
        return _read(path, parse, most)
    except UserError as error:
        logger.warning(str(error))
        return None


def _relative(path: str, start: Path, to: Path) -> str:
    """Return `path`, which is relative to `start`, relative to `to`. An absolute path stays.

    The paths in `config.json` are relative to the run, so it can be resumed from any folder.
    """
    if os.path.isabs(path):
        return str(path)
    try:
        return Path(os.path.relpath(start.resolve() / path, to.resolve())).as_posix()
    except ValueError:  # another drive, on Windows
        return str(start.resolve() / path)


def _checked(config: object) -> dict:
    """Return the content of a `config.json`; raise UserError if prediction cannot use it."""
    for name, (expected, default, is_good) in CHECKS.items():
        value = config.get(name, default)
        if not is_good(value):
            raise UserError(f"expected {name} to be {expected}, got {json.dumps(value)[:80]}")
    return config


def _are_classes(names) -> bool:
    """Return whether these are classes, and may have folders of their names, as --sort makes."""
    return (
        isinstance(names, list)
        and all(isinstance(name, str) and name not in ("", ".", "..") for name in names)
        and not set("".join(names)) & {"/", "\0"}
        and 2 <= len(set(names)) == len(names) <= MOST_CLASSES
    )


def _is_answer(sizes) -> bool:
    most = {"photos": novelty.MAX_PHOTOS, "scores": novelty.MAX_SCORES}
    return (
        isinstance(sizes, dict)
        and sizes.keys() == most.keys()
        and all(_is_number(sizes[name], 0, most[name], int) for name in most)
    )


def _is_number(value, least, most, *kinds) -> bool:
    return type(value) in (kinds or (int, float)) and least <= value <= most  # NaN is in no range


def _is_object(value) -> bool:
    return isinstance(value, dict)


# What prediction needs, by name: (what is expected, the default, the check).
CHECKS = {
    "classes": (f"2 to {MOST_CLASSES} distinct names of folders", None, _are_classes),
    "score_size": (
        f"a whole number from 1 to {MAX_SCORE_SIZE}",
        None,
        lambda value: _is_number(value, 1, MAX_SCORE_SIZE, int),
    ),
    "temperature": ("from 0.001 to 1000", 1.0, lambda value: _is_number(value, 1e-3, 1e3)),
    "clip": ("from 0 to 0.5", 0.0, lambda value: _is_number(value, 0, 0.5)),
    "answer": ("numbers of photos and scores", {"photos": 0, "scores": 0}, _is_answer),
    "settings": ("an object", {}, _is_object),
    "versions": ("an object", {}, _is_object),
    "files": ("an object", {}, _is_object),
}


def _is_history(rows) -> bool:
    """Return whether these are rows of numbers with the same keys."""
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and row.keys() == rows[0].keys()
        and all(_is_number(value, -math.inf, math.inf) for value in row.values())
        for row in rows
    )
