"""Photos that are not there yet: the demo's are drawn, those of the public copy downloaded.

The line may break while they come; they are checked, and then unpacked.
"""

import contextlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from catdog import cli, files
from catdog.errors import UserError
from catdog.photos import drawings, index

# Microsoft's copy (CDLA-Permissive-2.0), microsoft.com/download/details.aspx?id=54765. Microsoft
# publishes no sum: this one was taken from the file itself. As it pins every byte of the archive,
# unpacking trusts the archive's entries.
URL = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip"
)
SIZE = 824_887_076  # bytes
SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

CHUNK = 2**20  # bytes
ATTEMPTS = 5  # connections in one fetch
PAUSE = 1.0  # seconds before the second connection, one more before each further one

OTHER_WAYS = """\
You can:
  1. kaggle competitions download -c dogs-vs-cats -p tmp, and unzip train.zip there
  2. put your own photos into one folder per class: tmp/cats/*.jpg, tmp/dogs/*.jpg
  3. python train.py --demo trains on drawings and needs no photos"""

Progress = Callable[[int, int], None]


class _BrokenOff(UserError):
    """The connection failed: another try may help."""


def ensure_photos(data_dir: str, cache_dir: str, demo: bool = False) -> None:
    """Draw the photos of the demo, or download the public copy if tmp/ holds no labelled photos.

    Any other folder is left as it is.
    """
    if demo:
        cli.say("Drawing cats and dogs. What follows says nothing about photos.")
        with cli.blame("--demo"):
            drawings.make_demo(data_dir, progress=cli.progress("drawing", " pictures"))
    elif data_dir == "tmp":
        with cli.blame("--data-dir"), contextlib.suppress(index.NoPhotos):
            if os.path.lexists(data_dir):
                index.find(data_dir, cache_dir)
                return
        cli.say(
            "No labelled photos under tmp/. Downloading the public copy of Dogs vs. Cats, 825 MB."
        )
        try:
            download_photos(data_dir, progress=cli.progress("downloading", "B"))
        except UserError as error:
            raise UserError(f"cannot download the photos: {error}", advice=OTHER_WAYS) from None


def download_photos(
    data_dir: str | os.PathLike,
    progress: Progress = lambda done, total: None,
    url: str = URL,
    size: int = SIZE,
    sha256: str = SHA256,
) -> Path:
    """Download the public copy and unpack it to `data_dir/PetImages/{Cat,Dog}/N.jpg`.

    `PetImages` is written atomically, with the archive's licence and readme inside. If the user
    put an archive of the same name into `data_dir`, it is used and kept; our own download has a
    hidden name and is removed at the end.

    Args:
        data_dir: the folder; made if it is missing.
        progress, url, size, sha256: see `fetch`.
    Returns:
        The path of `PetImages`.
    """
    data_dir = Path(data_dir)
    photos = data_dir / "PetImages"
    if os.path.lexists(photos):
        raise UserError(f"{photos}: expected no such folder yet, to download the photos into")
    name = Path(urllib.parse.urlsplit(url).path).name
    own = data_dir / f".{name}"
    archive = data_dir / name if (data_dir / name).exists() else own
    with _explained(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        present = sum(file.stat().st_size for file in (archive, _part(archive)) if file.exists())
        # JPEGs hardly shrink in an archive; a quarter more is for the blocks they fill on disk.
        files.check_space(data_dir, max(0, size - present) + size * 5 // 4)
        fetch(url, archive, size, sha256, progress)
        files.remove_leftovers(data_dir, photos.name)
        with files.temporary_folder(photos) as temporary:
            with zipfile.ZipFile(archive) as bundle:
                bundle.extractall(temporary)
            unpacked = temporary / "PetImages"
            for other in set(temporary.iterdir()) - {unpacked}:
                other.rename(unpacked / other.name)  # the licence belongs to the photos
            unpacked.rename(photos)
        own.unlink(missing_ok=True)
        _part(own).unlink(missing_ok=True)
    return photos


def fetch(
    url: str,
    path: str | os.PathLike,
    size: int,
    sha256: str,
    progress: Progress = lambda done, total: None,
    timeout: float = 30,
) -> Path:
    """Download `url` to `path`, which appears only when it is complete and correct; return `path`.

    Until then the bytes are in `path` + ".part", and the next call continues there. A file at
    `path` with this size and sum is reused; any other file there is refused and left alone.

    Args:
        size, sha256: what is expected, in bytes and in hex.
        progress: function of (done, total), in bytes.
        timeout: the longest silence of the server, in seconds.
    Raises:
        UserError: with the reason in one line.
    """
    path = Path(path)
    part = _part(path)
    with _explained(path):
        if path.exists():
            if wrong := _difference(path, size, sha256):
                raise UserError(f"{path}: {wrong}; move it away to download it anew")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        with part.open("r+b") as file:
            _download(url, file, size, progress, timeout)
        if wrong := _difference(part, size, sha256):
            part.unlink()
            raise UserError(f"{url}: {wrong}; what came was removed")
        part.replace(path)
    return path


def _download(url, file, size, progress, timeout):
    """Add to `file` what it lacks of `size` bytes, over several connections if necessary."""
    reached = False
    for attempt in range(ATTEMPTS):
        if (done := file.seek(0, os.SEEK_END)) >= size:
            return
        time.sleep(PAUSE * attempt)
        try:
            with _explained(url, _BrokenOff):
                response, done = _connect(url, done, size, timeout)
            reached = True
            with response:
                if done < file.tell():
                    file.truncate(file.seek(done))
                while done <= size:
                    with _explained(url, _BrokenOff):
                        # Not read(), which loses what it has when the connection breaks.
                        chunk = response.read1(CHUNK)
                    if not chunk:
                        break
                    done += file.write(chunk)
                    progress(min(done, size), size)
            if done < size:
                raise _BrokenOff(f"{url}: the connection closed at {done:,} of {size:,} bytes")
        except _BrokenOff:
            # Without a way to the server the user need not wait for more tries.
            if not reached or attempt == ATTEMPTS - 1:
                raise


def _connect(url, start, size, timeout):
    """Return the response and the place of its first byte: `start`, or 0 if it must be."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:
            return _connect(url, 0, size, timeout)
        raise _BrokenOff(f"{url}: the server answered {error.code}") from None
    start = start if response.status == 206 else 0
    if response.length not in (None, size - start):
        response.close()
        got = start + response.length
        raise UserError(f"{url}: expected {size:,} bytes, the server announces {got:,}")
    return response, start


def _part(path):
    return path.with_name(path.name + ".part")


def _difference(path, size, sha256):
    """Return what tells the file from the expected one, in words; None if it is the right one."""
    if (got := path.stat().st_size) != size:
        return f"expected {size:,} bytes, got {got:,}"
    got = files.sha256(path)
    return None if got == sha256.lower() else f"expected sha256 {sha256}, got {got}"


@contextlib.contextmanager
def _explained(subject, kind=UserError) -> Iterator[None]:
    """Turn a failure of network or disk into a UserError about `subject`."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise kind(f"{subject}: {text}") from error
