"""Files and folders that are there whole or not at all."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path

from terminal import UserError, printable


@contextlib.contextmanager
def whole_file(path, argument=None):
    """Gives a temporary path; the file written there becomes `path` if the block ends well.

    Folders that are missing are made. `argument`: what to blame where it cannot be written.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
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


def check_new(path):
    """Raises `UserError` where the folder that --output names exists or cannot be made."""
    if os.path.lexists(path):
        raise UserError(f"--output: expected a new folder, got {printable(path)}, which exists")
    parent = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--output: expected a folder that can be written to, "
                        f"got {printable(path)} in {printable(parent)}")
