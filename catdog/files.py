"""Files and folders that are there whole or not at all."""

import contextlib
import hashlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from terminal import UserError, printable


@contextlib.contextmanager
def whole_file(path, argument=None, make_folder=False):
    """Gives a temporary path; the file written there becomes `path` if the block ends well.

    argument: what to blame where it cannot be written; make_folder: makes the folders that are
    missing. (That of a run that someone removed must not come back with a checkpoint alone.)
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        blame = f"{argument}: " if argument else ""
        raise UserError(f"{blame}cannot write {printable(path)}: {reason}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(path):
    """Gives a temporary folder, which becomes `path` if the block ends well; see `check_new`."""
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"--output: cannot write {printable(path)}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder, age=0):
    """Removes what killed processes left half written, untouched for `age` seconds."""
    for path in Path(folder).glob(".*"):
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime >= age
            if re.match(r"\.[0-9a-f]{8}\..", path.name) and path.is_file() and old:
                path.unlink()


def sha256(path):
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_outside(path, data_dir):
    """Raises `UserError` where --output lies among the photos, of which its pictures would be."""
    if Path(path).resolve().is_relative_to(Path(data_dir).resolve()):
        raise UserError(f"--output: expected a folder outside the photos in {printable(data_dir)}, "
                        f"got {printable(path)}")


def check_new(path, flag="--output", kind="folder"):
    """Raises `UserError` where the folder or file that `flag` names exists or cannot be made."""
    if os.path.lexists(path):
        raise UserError(f"{flag}: expected a new {kind}, got {printable(path)}, which exists")
    parent = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag}: expected a folder that can be written to, "
                        f"got {printable(path)} in {printable(parent)}")
