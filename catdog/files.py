"""Files and folders that are written atomically, damaged ones that are read, and JSON."""

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import shlex
import shutil
import stat
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

from catdog.errors import UserError, printable

MOST_BYTES = 2**32  # of a file that is read; a run of ours has 4 MB
LEFTOVER_AGE = 24 * 3600  # seconds after which a temporary file is taken for left behind

# --- Writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: Path, make_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path; the file written there becomes `path` if the block ends well.

    Args:
        make_folder: make the folders that are missing. (A run directory that somebody removed must
            not come back with a checkpoint alone.)
    Raises:
        UserError: it cannot be written.
    """
    temporary = temporary_path(path)
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` if the block ends well; see `atomic_file`."""
    try:
        with temporary_folder(path) as temporary:
            yield temporary
            temporary.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`, and remove it after the block."""
    folder = temporary_path(path)
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """Return a hidden path beside `path` that says which process of which machine writes it.

    Of a long name only the end is kept: a file system takes 255 bytes.
    """
    name = f".{uuid.uuid4().hex[:8]}.{_machine()}.{os.getpid()}.{path.name[-40:]}"
    return path.with_name(name)


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def remove_leftovers(folder: Path, name: str | re.Pattern = re.compile(".*")) -> None:
    """Remove the temporary files and folders of processes that were killed.

    They are those of processes of this machine that no longer run, and all that nobody has touched
    for a day: a folder may be shared by several machines.

    Args:
        name: of the file or folder that was to be written, or a pattern of its name.
    """
    ending = re.escape(name[-40:]) if isinstance(name, str) else name.pattern
    pattern = re.compile(rf"\.[0-9a-f]{{8}}\.(?:([0-9a-f]{{8}})\.(\d+)\.)?{ending}", re.DOTALL)
    for path in Path(folder).glob(".*"):
        if match := pattern.fullmatch(path.name):
            with contextlib.suppress(OSError):
                ended = match[1] == _machine() and not _runs(int(match[2]))
                if not ended and age(path) < LEFTOVER_AGE:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def age(path: Path) -> float:
    """Return the seconds since a file, or a folder or a file in it, was changed."""
    return time.time() - max(each.lstat().st_mtime for each in (path, *path.glob("*")))


def _runs(pid: int) -> bool:
    """Return whether a process may still run."""
    if os.name != "posix":
        return True  # on Windows, signal 0 would be a Ctrl-C
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock `path`, a file, until the block or this process ends; one process can.

    Other containers that share its folder see it too. Where the file system has no locks, a second
    file stands for it, which a killed process leaves.

    Raises:
        UserError: another process holds it; the message says which.
    """
    plain = Path(f"{path}.held")
    try:
        file = _locked(path, plain)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        yield
    finally:
        for each in (plain, path):
            with contextlib.suppress(OSError):
                each.unlink()
        file.close()


def _locked(path, plain):
    """Return the locked file at `path`, open."""
    here = f"process {os.getpid()} on {platform.node()}, which began at {time.strftime('%c')}"
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  kept open, as that holds the lock
        try:
            if fcntl is None:
                raise OSError
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path.parent} is in use by {_holder(path)}") from None
        except OSError:
            try:
                plain.open("x").close()
            except FileExistsError:
                raise UserError(
                    f"{path.parent} is in use by {_holder(path)}; if that has ended, remove {plain}"
                ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                file.truncate(0)
                file.write(here)
                file.flush()
                return file
        file.close()  # its holder removed it meanwhile


def _holder(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(200) or "another process"


def write_json(path: Path, content: object) -> None:
    """Write `content` atomically as indented JSON; see `to_json`."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(json.loads(to_json(content)), indent=2) + "\n")


def to_json(obj: object) -> str:
    """Return `obj` as strict JSON on one line; NaN and infinity become null.

    Takes what `json.dumps` does and NumPy scalars, arrays and paths, at any depth; keys become
    strings. Raises TypeError for anything else.
    """
    return json.dumps(_plain(obj), allow_nan=False)


def _plain(obj):
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, np.ndarray):
        return _plain(obj.tolist())
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, PurePath):
        return str(obj)
    if isinstance(obj, float | np.floating):
        return float(obj) if math.isfinite(obj) else None
    return obj.item() if isinstance(obj, np.generic) else obj


# --- Checking -------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file in this block into a UserError that names the file.

    Changed bytes make parsers raise errors of all kinds.
    """
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"cannot read {path}: {' '.join(reason.split())[:300]}") from None


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_readable(path: Path, most: int = MOST_BYTES) -> None:
    """Raise an error unless `path` is a file of at most `most` bytes: a pipe has no end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    if found.st_size > most:
        raise ValueError(f"{found.st_size:,} bytes, more than {most:,}")


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError unless the disk of a folder has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"expected {amount(needed)} of free disk space in {folder}, got {amount(free)}"
        )


def check_outside(path: Path, data_dir: Path) -> None:
    """Raise UserError if `path` is among the photos: its pictures would be taken for photos."""
    if Path(path).resolve().is_relative_to(Path(data_dir).resolve()):
        raise UserError(f"expected a folder outside the photos in {data_dir}, got {path}")


def check_new(path: Path, kind: str = "folder") -> None:
    """Raise UserError if the folder or file `path` exists or cannot be made.

    What killed processes left of it is removed.
    """
    if Path(path).is_symlink() or Path(path).exists():  # lexists says that a long name is free
        raise UserError(f"expected a new {kind}, got {path}, which exists")
    parent = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(
            f"expected a folder that can be written to, got {path}, which cannot be made"
        )
    remove_leftovers(Path(path).parent, Path(path).name)


def make_folder(folder: str, inputs: Iterable[str]) -> Path:
    """Create an output folder. It must be empty and outside the folders among `inputs`."""
    folder = Path(folder)
    for path in filter(os.path.isdir, inputs):
        check_outside(folder, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in (folder, *folder.iterdir()):  # --sort writes one level below
            remove_leftovers(each)
        if any(folder.iterdir()):
            raise UserError(f"expected a new or empty folder, got {folder}")
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"expected a folder that can be written to, got {folder}")
    return folder


# --- Printing -------------------------------------------------------------------------------------


def nfc(text: str) -> str:
    """Return text in Unicode's normalization NFC: macOS writes an umlaut as two characters."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def amount(size: int) -> str:
    """Return a number of bytes as text, such as 2.7 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as 1 epoch or 2,000 epochs."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def quoted(path: str | os.PathLike) -> str:
    """Return a path as it is typed at a shell."""
    return shlex.quote(str(path))


def without_folders(path: str | os.PathLike) -> str:
    """Return a path as reports show it, which are passed on: if absolute, only its last part."""
    return Path(path).name if os.path.isabs(path) else str(path)


def some_names(names: Sequence[str], most: int = 10) -> str:
    """Return the names for one output line; of more than `most`, the first and the last few."""
    shown = [printable(name) for name in names]
    if len(shown) <= most:
        return ", ".join(shown)
    return f"{', '.join(shown[:3])} ... {', '.join(shown[3:][-2:])} ({len(shown):,} in total)"
