"""A run directory: the settings, weights and history of one training run.

    config.json     settings, versions, classes, image size, sizes of the splits, temperature, clip
    history.csv     one row per epoch, which curves.png shows
    model-*.keras   the averaged weights after the last epoch, in float32, and the answer fitted to
                    them; until it is fitted, model.keras; see export.py
    model-*.tflite  the same as LiteRT, with which predict.py starts at once
    trained_on.npy  which photos the network was trained on, as hashes of their names and looks
    metrics.json    the scores on validation and test; written last, it marks a finished run
    checkpoint.npz  while training: everything that a resumed run needs

Every file is written atomically. A run directory may come from somebody else: what is read is
checked first.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog import backend, files
from catdog.backend import keras
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos import alike
from catdog.photos.found import MOST_CLASSES
from catdog.runs import novelty
from catdog.training import recipe

logger = logging.getLogger(__name__)
# The run that comes with the project: in the clone, or in the package that pip installed.
WEIGHTS = next(
    (path for up in (2, 1) if (path := Path(__file__).parents[up] / "weights").is_dir()),
    Path(__file__).parents[2] / "weights",
)
TO_RESUME = ("config.json", "checkpoint.npz", "model.keras", "metrics.json")
NETWORK = re.compile(r"model(-[0-9a-f]{8})?\.(keras|tflite)")  # names of the files of a network

DECIDED_BY_PHOTOS = ("fold", "batch_size", "precision", *recipe.MILD)
MAX_SCORE_SIZE = 1280  # px: --image-size 1024 and a quarter
MAX_ARRAYS = 2**32  # bytes of checkpoint.npz or trained_on.npy
MAX_TEXT = 2**26  # bytes of config.json; the names of a million excluded photos fit in


def chosen(model: str | None) -> Path:
    """Return the run directory `model`, or by default the one that comes with the project."""
    if model is not None:
        return Path(model)
    if not WEIGHTS.is_dir():
        raise UserError(
            "expected the run directory of a trained network, which train.py writes: this copy of "
            "the project has none in weights/"
        )
    return WEIGHTS.relative_to(Path.cwd()) if WEIGHTS.is_relative_to(Path.cwd()) else WEIGHTS


# --- Paths in config.json -------------------------------------------------------------------------


def relative_to_run(run: Path, path: str) -> str:
    """Return a path that was typed in the current folder as `config.json` keeps it.

    A relative path becomes relative to the run directory: a resumed run finds it from any folder.
    """
    return _relative(Path.cwd() / path, Path(run).resolve(), path)


def from_run(run: Path, path: str) -> str:
    """Return a path of `config.json` as it is typed in the current folder."""
    return _relative(Path(run).resolve() / path, Path.cwd(), path)


def _relative(path, folder, typed):
    if os.path.isabs(typed):
        return str(typed)
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return str(path)


# --- State of a run -------------------------------------------------------------------------------


def is_unstarted(run: Path) -> bool:
    """Return whether a run ended before its first checkpoint, so that it may begin again."""
    try:
        names = {path.name for path in Path(run).iterdir() if path.name[0] != "."}
        read_config(run)
    except (OSError, UserError):
        return False
    return names == {"config.json"}


def has_checkpoint(run: Path) -> bool:
    return os.path.lexists(Path(run) / "checkpoint.npz")


def is_finished(run: Path) -> bool:
    return (Path(run) / "metrics.json").exists()


def check_resumable(run: Path) -> None:
    """Raise UserError if a run has lost files, so that resuming would train it once more."""
    model = any(path.suffix == ".keras" for path in network_files(run))
    if is_finished(run) and not model:
        raise UserError(
            f"expected model.keras in {printable(run)}, whose metrics.json says that it is "
            "finished: start a new run"
        )
    if model and not is_finished(run) and not has_checkpoint(run):
        raise UserError(
            f"expected checkpoint.npz or metrics.json beside the model.keras in {printable(run)}, "
            "got neither: evaluate.py scores that network, and a new run trains another"
        )


def check_trained(run: Path) -> None:
    """Raise UserError if a run has no trained network yet."""
    if network_files(run):
        return
    if has_checkpoint(run):
        raise UserError(
            f"expected a finished run, got {printable(run)}, which is unfinished: train.py can "
            "resume it"
        )
    raise UserError(f"expected a finished run, got {printable(run)} without a model.keras")


def clean(run: Path) -> None:
    """Remove from a finished run the checkpoint, and what a killed process left."""
    (Path(run) / "checkpoint.npz").unlink(missing_ok=True)
    files.remove_leftovers(run)


def finish(run: Path, metrics: dict) -> None:
    """Mark a run as finished and remove its checkpoint."""
    files.write_json(Path(run) / "metrics.json", metrics)
    clean(run)


# --- config.json ----------------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(run: Path, config: dict | None = None) -> Iterator[None]:
    """Hold a run directory in this block, so that no other process trains into it.

    Args:
        config: of a new run, whose directory is made; one that `is_unstarted` gets it, too.
    """
    run = Path(run)
    if config is not None:
        check_config(config, run / "config.json")  # or nobody could read it after training
    if config is not None and not is_unstarted(run):
        with files.atomic_folder(run) as temporary:
            files.write_json(temporary / "config.json", config)
    with files.lock(run / ".lock"):
        if config is not None:
            if not is_unstarted(run):
                files.check_new(run)  # another process made it and ended
            files.write_json(run / "config.json", config)
        yield


def create(run: Path, config: dict) -> None:
    """Make a run directory with its `config.json`; see `claimed`."""
    with claimed(run, config):
        pass


def free_folder(name: str) -> Path:
    """Return the path `name`, with a suffix if there is such a folder."""
    numbered = (name if count == 1 else f"{name}-{count}" for count in itertools.count(1))
    return Path(next(each for each in numbered if not os.path.lexists(each)))


def new_config(
    run: Path, settings, dataset, places: dict[str, str], exclude: list[str], relabel: dict
) -> dict:
    """Return the `config.json` of a new run.

    Args:
        settings: `training.settings.Settings`.
        dataset: the `data.Dataset` to train on.
        places: `data_dir` and `cache_dir` as they were typed in the current folder.
        exclude, relabel: as for `data.load`.
    """
    return {
        "settings": dataclasses.asdict(settings),
        **{name: relative_to_run(run, path) for name, path in places.items()},
        "exclude": exclude,
        "relabel": relabel,
        "classes": dataset.classes,
        "score_size": settings.score_size,
        "splits": dataset.split_sizes(),
        "digest": dataset.digest(),
        "skipped": len(dataset.skipped),
        "versions": backend.versions(),
    }


def check_same(config: dict, settings, dataset, data_dir: str) -> None:
    """Raise UserError unless a run goes on with the photos and the sizes that it began with."""
    if dataset.digest() != config.get("digest"):
        raise UserError(
            f"the photos in {printable(data_dir)} have changed since this run was started; "
            "restore them or start a new run"
        )
    for name, value in (("classes", dataset.classes), ("score_size", settings.score_size)):
        if config[name] != value:
            raise UserError(f"config.json was changed: expected {name} to be {value}")


def check_recipe(run: Path, settings) -> None:
    """Raise UserError if a run was begun with other settings, apart from what photos decide."""
    begun = read_config(run)["settings"]
    for name, value in json.loads(files.to_json(dataclasses.asdict(settings))).items():
        if name not in DECIDED_BY_PHOTOS and begun.get(name) != value:
            raise UserError(
                f"expected {name} {printable(str(begun.get(name)))}, with which "
                f"{printable(run)} was begun, got {value}; use another --output"
            )


def update_config(run: Path, **changes: object) -> None:
    """Replace or add entries of `config.json`."""
    files.write_json(Path(run) / "config.json", {**read_config(run), **changes})


def has_mirror(config: dict) -> bool:
    """Return whether a network answers for the mean of a photo and its mirror image."""
    settings = config.get("settings", {})
    return not isinstance(settings, dict) or settings.get("mirror") is not False


def network_files(run: Path) -> list[Path]:
    """Return the files of a run that hold a network."""
    return [path for path in Path(run).glob("model*") if NETWORK.fullmatch(path.name)]


def network_file(run: Path, config: dict, suffix: str) -> tuple[Path, str | None]:
    """Return the file of a network and its sha256, if `config.json` says it.

    Args:
        suffix: ".keras" or ".tflite".
    """
    for name, digest in config.get("files", {}).items():
        if name.endswith(suffix):
            return Path(run) / name, digest
    old = config.get("litert_sha256") if suffix == ".tflite" else None
    return Path(run) / f"model{suffix}", old


def check_sum(path: Path, digest: str | None) -> None:
    """Raise ValueError unless a file has this sha256."""
    if digest and files.sha256(path) != digest:
        raise ValueError("its sha256 is not the one in config.json; model.py exports anew")


def switch(run: Path, new: Sequence[Path], changes: dict) -> None:
    """Replace the network of a run: a reader, or a kill at any time, finds the old or the new one.

    Args:
        new: the files, on the same disk as the run; they are moved there.
        changes: of `config.json`.
    """
    named = {}
    for path in new:
        digest = files.sha256(path)
        name = f"model-{digest[:8]}{path.suffix}"
        with files.atomic_file(Path(run) / name) as temporary:
            path.rename(temporary)
        named[name] = digest
    config = {**read_config(run), **changes, "files": named}
    config.pop("litert_sha256", None)  # of an earlier release
    files.write_json(Path(run) / "config.json", config)
    for path in [*network_files(run), Path(run) / "novelty.npz"]:
        if path.name not in named:
            path.unlink(missing_ok=True)


def read_config(run: Path | str) -> dict:
    """Return the content of `config.json`; raise UserError if prediction cannot use it."""
    path = Path(run) / "config.json"
    found = _read(path, lambda: [json.loads(path.read_bytes())])
    if found is None:
        raise UserError(f"expected a run directory with a config.json, got {printable(run)}")
    (config,) = found
    if not isinstance(config, dict):
        raise UserError(f"{printable(path)} is not what train.py writes: expected an object")
    check_config(config, path)
    return config


def check_config(config: dict, path: Path) -> None:
    """Raise UserError unless prediction can use the content of the `config.json` at `path`."""
    for key, (expected, default, good) in CHECKS.items():
        value = config.get(key, default)
        if not good(value):
            got = printable(json.dumps(value))[:80]
            raise UserError(
                f"{printable(path)} is not what train.py writes: expected {key} to be {expected}, "
                f"got {got}"
            )


def _read(path: Path, parse: Callable[[], object]) -> object:
    """Return what `parse` makes of a file of a run, or None if there is no such file.

    Raises:
        UserError: the file cannot be read. Changed bytes make parsers raise errors of all kinds.
    """
    try:
        files.check_regular(path)
        most = MAX_TEXT if path.suffix in (".json", ".csv") else MAX_ARRAYS
        if (size := path.stat().st_size) > most:
            raise ValueError(f"{size:,} bytes, more than {most:,}")
        return parse()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror or error}") from None
    except Exception as error:
        reason = printable(" ".join(str(error).split())[:200]) or type(error).__name__
        raise UserError(f"{printable(path)} is not what train.py writes: {reason}") from None


def _read_if_whole(path: Path, parse: Callable[[], object]) -> object:
    """Do what `_read` does for a file that is not needed: damage costs a warning, and is None."""
    try:
        return _read(path, parse)
    except UserError as error:
        logger.warning(str(error))
        return None


def _are_classes(names) -> bool:
    return (
        isinstance(names, list)
        and 2 <= len(names) <= MOST_CLASSES
        and all(isinstance(name, str) and _is_file_name(name) for name in names)
        and len(set(names)) == len(names)
    )


def _is_file_name(name: str) -> bool:
    """Return whether a class may have a folder of that name, as predict.py makes them."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def _are_files(named) -> bool:
    """Return whether every name is one of `switch`, with the sha256 that it comes from."""
    return isinstance(named, dict) and all(
        isinstance(digest, str)
        and re.fullmatch("[0-9a-f]{64}", digest)
        and re.fullmatch(rf"model-{digest[:8]}\.(keras|tflite)", name)
        for name, digest in named.items()
    )


def _is_answer(sizes) -> bool:
    return isinstance(sizes, dict) and all(
        type(sizes.get(name)) is int and 0 <= sizes[name] <= most
        for name, most in (("photos", novelty.MAX_PHOTOS), ("scores", novelty.MAX_SCORES))
    )


def _is_number(value, least, most) -> bool:
    return type(value) in (int, float) and least <= value <= most  # not so for NaN


# What prediction needs: what is expected, the default, the check.
CHECKS = {
    "classes": (f"2 to {MOST_CLASSES} distinct names", None, _are_classes),
    "score_size": (
        f"a whole number from 1 to {MAX_SCORE_SIZE}",
        None,
        lambda value: type(value) is int and 0 < value <= MAX_SCORE_SIZE,
    ),
    "temperature": ("from 0.001 to 1000", 1.0, lambda value: _is_number(value, 1e-3, 1e3)),
    "clip": ("from 0 to 0.5", 0.0, lambda value: _is_number(value, 0, 0.5)),
    "data_dir": ("text", "", lambda value: isinstance(value, str)),
    "cache_dir": ("text", "", lambda value: isinstance(value, str)),
    "settings": ("an object", {}, lambda value: isinstance(value, dict)),
    "versions": ("an object", {}, lambda value: isinstance(value, dict)),
    "files": ("the names that the export gave them, with sha256", {}, _are_files),
    "answer": ("numbers of photos and scores", {"photos": 0, "scores": 0}, _is_answer),
    "litert_sha256": ("text", None, lambda value: isinstance(value, str | None)),
}


# --- History and checkpoint -----------------------------------------------------------------------


def read_history(run: Path) -> list[dict[str, str]]:
    """Return the rows of `history.csv`, values as text; none if there is no such file."""
    path = Path(run) / "history.csv"

    def parse():
        return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))

    return _read_if_whole(path, parse) or []


def write_history(run: Path, rows: Sequence[dict]) -> None:
    """Write the rows, which have the same keys, as `history.csv`."""
    path = Path(run) / "history.csv"
    with files.atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_checkpoint(run: Path, history: list[dict], arrays: Sequence[np.ndarray]) -> None:
    """Write a checkpoint: one row of `history` per epoch, and the arrays of `training_arrays`.

    And `history.csv`. Of several processes, only the first writes.
    """
    if backend.index() > 0:
        return
    named = {f"array{i}": array for i, array in enumerate(arrays)}
    with files.atomic_file(Path(run) / "checkpoint.npz") as temporary:
        np.savez(temporary, history=np.array(json.dumps(history)), **named)
    if history:
        write_history(run, history)


def read_checkpoint(run: Path) -> tuple[list[dict], list[np.ndarray]] | None:
    """Return (history, arrays) as they were written, or None; raise UserError for damage."""
    path = Path(run) / "checkpoint.npz"

    def parse():
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_size != entry.file_size for entry in archive.infolist()):
                raise ValueError("compressed")  # it may unpack to far more than its size
        with np.load(path, allow_pickle=False) as file:
            history = json.loads(str(file["history"]))
            arrays = [file[f"array{i}"] for i in range(len(file.files) - 1)]
        if not _is_history(history) or any(array.dtype.kind not in "biuf" for array in arrays):
            raise ValueError("expected numbers")
        return history, arrays

    try:
        return _read(path, parse)
    except UserError as error:
        raise UserError(f"{error}; without that file the run starts from its first epoch") from None


def _is_history(rows) -> bool:
    """Return whether these are rows of `history.csv`: rows of numbers with the same keys."""
    return (
        isinstance(rows, list)
        and all(isinstance(row, dict) and row and row.keys() == rows[0].keys() for row in rows)
        and all(type(value) in (int, float) for row in rows for value in row.values())
    )


def check_arrays(arrays: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise UserError unless the arrays of a checkpoint have these shapes and are finite."""
    if [array.shape for array in arrays] != list(map(tuple, shapes)):
        raise UserError(
            "expected a checkpoint of the network that config.json names, got one of another"
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise UserError("expected finite numbers in checkpoint.npz, got nan or inf")


def training_variables(network: keras.Model) -> list:
    """Return all that training changes: of the network, its average and its optimizer."""
    return [*network.variables, *network.optimizer.variables]


def training_arrays(network: keras.Model) -> list[np.ndarray]:
    """Return the arrays of a checkpoint of a compiled `training.average.AveragedNetwork`."""
    return [np.asarray(keras.ops.convert_to_numpy(each)) for each in training_variables(network)]


def restore_training(run: Path, network: keras.Model) -> list[dict]:
    """Restore the checkpoint if there is one; raise UserError if it is of another network.

    Returns:
        The rows of its history, or an empty list.
    """
    checkpoint = read_checkpoint(run)
    if checkpoint is None:
        return []
    history, arrays = checkpoint
    variables = training_variables(network)
    check_arrays(arrays, [tuple(each.shape) for each in variables])
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return history


# --- The trained network --------------------------------------------------------------------------


def save_network(run: Path, network: keras.Model) -> None:
    """Write `model.keras`, to which the answer is fitted next: see `switch`."""
    with files.atomic_file(Path(run) / "model.keras") as temporary:
        network.save(temporary)


def write_trained_on(run: Path, identities: np.ndarray, init: str | None = None) -> None:
    """Write which photos the network was trained on, and those that `init` was trained on.

    Args:
        identities: (n, 2) uint64, hashes of the names and of the looks of the photos.
    """
    before = None if init is None else _read_trained_on(init)
    known = identities if before is None else np.concatenate([identities, before])
    with files.atomic_file(Path(run) / "trained_on.npy") as temporary:
        np.save(temporary, np.unique(known, axis=0))


def trained_on(run: Path | str, identities: np.ndarray) -> np.ndarray | None:
    """Return (n,) bool, whether the network was trained on each photo; None if not known.

    It was if it knows a photo of the same name that looks the same: other photos may have the same
    names, such as cat.0, and the same photo may be encoded again.
    """
    known = _read_trained_on(run)
    if known is None:
        return None
    names, looks = identities.T
    first = np.searchsorted(known[:, 0], names, "left")
    count = np.searchsorted(known[:, 0], names, "right") - first
    found = np.zeros(len(names), bool)
    for place in range(count.max(initial=0)):
        rows = known[np.minimum(first + place, len(known) - 1)]
        found |= (place < count) & alike.are_near(rows[:, 1], looks)
    return found


def _read_trained_on(run):
    path = Path(run) / "trained_on.npy"

    def parse():
        hashes = np.load(path, allow_pickle=False)
        if hashes.dtype != np.uint64 or hashes.shape[1:] != (2,):
            raise ValueError("expected pairs of hashes")
        return hashes

    return _read_if_whole(path, parse)
