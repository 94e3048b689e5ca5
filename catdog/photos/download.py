"""The public copy of the photos: fetched over a line that may break, checked, unpacked safely."""

import contextlib
import hashlib
import http.client
import os
import shutil
import stat
import struct
import tempfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path

# Microsoft's copy (CDLA-Permissive-2.0), microsoft.com/download/details.aspx?id=54765. Microsoft
# publishes no sum: this one was taken from the file itself.
URL = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip"
)
SIZE = 824_887_076  # bytes
SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

MAX_BYTES = 2**31  # unpacked, all entries together
MAX_ENTRY_BYTES = 2**26  # the largest photo has less than a megabyte
MAX_ENTRIES = 100_000
MAX_NAME = 240  # characters
CHUNK = 2**20  # bytes
ATTEMPTS = 5  # connections in one fetch
PAUSE = 1.0  # seconds before the second connection, one more before each further one

# What the network, the disk and a broken archive raise.
FAILURES = (
    OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, struct.error, EOFError,
    ValueError, NotImplementedError,
)  # fmt: skip


class DownloadError(Exception):
    """Why the photos could not be had: one line, for the user."""


class _BrokenOff(DownloadError):
    """The connection failed: another try may help."""


def download_photos(data_dir, progress=None, url=URL, size=SIZE, sha256=SHA256):
    """Downloads the public copy and unpacks it to `data_dir/PetImages/{Cat,Dog}/N.jpg`.

    `PetImages` appears whole or not at all, with the archive's licence and readme inside. An
    archive of the same name that the user put into `data_dir` is used and stays; our own download
    has a hidden name and is removed at the end. `progress(done, total)`, in bytes, runs twice: for
    the download and for the unpacking. Returns the path of `PetImages`; raises DownloadError.
    """
    data_dir = Path(data_dir)
    photos = data_dir / "PetImages"
    if os.path.lexists(photos):
        raise DownloadError(f"{photos}: expected no such folder yet, to download the photos into")
    name = Path(urllib.parse.urlsplit(url).path).name
    own = data_dir / f".{name}"
    archive = data_dir / name if (data_dir / name).exists() else own
    with _explained(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        present = sum(file.stat().st_size for file in (archive, _part(archive)) if file.exists())
        # JPEGs hardly shrink in an archive; a quarter more is for the blocks they fill on disk.
        _check_space(data_dir, max(0, size - present) + size * 5 // 4)
        fetch(url, archive, size, sha256, progress)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=data_dir) as temporary:
            unpacked = unpack(archive, Path(temporary) / "archive", progress=progress)
            for folder in ("Cat", "Dog"):
                if not (unpacked / "PetImages" / folder).is_dir():
                    raise DownloadError(f"{archive}: no folder PetImages/{folder} in it")
            for other in sorted(unpacked.iterdir()):  # the licence belongs to the photos
                if other.name != "PetImages":
                    other.rename(unpacked / "PetImages" / other.name)
            (unpacked / "PetImages").rename(photos)
        own.unlink(missing_ok=True)
        _part(own).unlink(missing_ok=True)
    return photos


def fetch(url, path, size, sha256, progress=None, timeout=30):
    """Downloads `url` (http or https) to `path`, which appears only when whole and right.

    Until then the bytes are in `path` + ".part", from where the next call goes on. A file at
    `path` with this `size` (bytes) and `sha256` (hex) is reused, another one is left alone and
    refused. `timeout` is the longest silence of the server, in seconds. `progress(done, total)`
    counts bytes. Returns `path`; raises DownloadError.
    """
    path = Path(path)
    part = _part(path)
    if not url.lower().startswith(("http://", "https://")):
        raise DownloadError(f"{url!r}: expected an http or https address")
    with _explained(path):
        if path.exists():
            if wrong := _difference(path, size, sha256):
                raise DownloadError(f"{path}: {wrong}; move it away to download it anew")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        with part.open("r+b") as file:
            _download(url, file, size, progress, timeout)
            file.flush()
            os.fsync(file.fileno())
        if wrong := _difference(part, size, sha256):
            part.unlink()
            raise DownloadError(f"{url}: {wrong}; what came was removed")
        part.replace(path)
    return path


def unpack(archive, folder, max_bytes=MAX_BYTES, progress=None):
    """Unpacks a ZIP `archive` into `folder`, which must not exist and appears only when whole.

    Every entry is checked before anything is written: its name, its kind, and the bytes that it
    announces, together `max_bytes` at most. `progress(done, total)` counts unpacked bytes.
    Returns `folder`; raises DownloadError, which names the entry and the reason.
    """
    archive, folder = Path(archive), Path(folder)
    if os.path.lexists(folder):
        raise DownloadError(f"{folder}: expected no such folder yet, to unpack {archive} into")
    with _explained(archive), zipfile.ZipFile(archive) as bundle:
        entries = bundle.infolist()
        total = _check_entries(archive, entries, max_bytes)
        _check_space(folder.parent, total + 4096 * len(entries))
        done = 0
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as temporary:
            # A folder inside, as the temporary one itself is closed to other users.
            whole = Path(temporary) / "whole"
            whole.mkdir()
            for entry in entries:
                target = whole / entry.orig_filename
                with _explained(f"{archive}: entry {entry.orig_filename!r}"):
                    if entry.orig_filename.endswith("/"):
                        target.mkdir(parents=True, exist_ok=True)
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    done += _write_entry(bundle, entry, target)
                if progress:
                    progress(done, total)
            whole.rename(folder)
    return folder


def _download(url, file, size, progress, timeout):
    """Adds to `file` what it lacks of `size` bytes, over several connections if need be."""
    done = file.seek(0, os.SEEK_END)
    reached = False
    for attempt in range(ATTEMPTS):
        if done >= size:
            return
        time.sleep(PAUSE * attempt)
        try:
            response, offset = _connect(url, done, size, timeout)
            reached = True
            with response:
                if offset != done:
                    done = file.seek(offset)
                    file.truncate()
                while done <= size:
                    with _explained(url, _BrokenOff):
                        # Not read(), which loses what it has when the connection breaks.
                        chunk = response.read1(CHUNK)
                    if not chunk:
                        break
                    file.write(chunk)
                    done += len(chunk)
                    if progress:
                        progress(min(done, size), size)
            if done < size:
                raise _BrokenOff(f"{url}: the connection closed at {done:,} of {size:,} bytes")
        except _BrokenOff:
            # Without a way to the server the user need not wait for more tries.
            if done < size and (not reached or attempt == ATTEMPTS - 1):
                raise


def _connect(url, start, size, timeout):
    """Returns the response and the place of its first byte: `start`, or 0 if it must be."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with _explained(url, _BrokenOff):
        try:
            response = urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
    asked_for = response.headers["Content-Range"] == f"bytes {start}-{size - 1}/{size}"
    if start and response.status in (206, 416) and not asked_for:
        response.close()
        return _connect(url, 0, size, timeout)
    if response.status not in (200, 206):
        response.close()
        raise _BrokenOff(f"{url}: the server answered {response.status}")
    if response.status == 200:
        start = 0
    if response.length not in (None, size - start):
        response.close()
        got = start + response.length
        raise DownloadError(f"{url}: expected {size:,} bytes, the server announces {got:,}")
    return response, start


def _check_entries(archive, entries, max_bytes):
    """Returns the bytes that the entries announce together; DownloadError if one is not fit."""
    if len(entries) > MAX_ENTRIES:
        raise DownloadError(f"{archive}: {len(entries):,} entries, more than {MAX_ENTRIES:,}")
    total = 0
    seen = {}  # path in lower case: that path as first spelled if a folder, None if a file
    for entry in entries:
        name = entry.orig_filename  # zipfile cuts .filename off at a NUL
        is_folder = name.endswith("/")
        parts = name.removesuffix("/").split("/")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        total += entry.file_size
        problem = None
        # "", "." and "..", and those whose end Windows drops
        odd_parts = any(not part or part[-1] in ". " for part in parts)
        if odd_parts or set(name) & set("\\:") or not name.isprintable() or len(name) > MAX_NAME:
            problem = "its name is not a plain relative path"
        elif kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
            problem = "it is a link or another special file"
        elif entry.flag_bits & 1:
            problem = "it is encrypted"
        elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = "its compression is not deflate"
        elif entry.file_size > (0 if is_folder else MAX_ENTRY_BYTES) or total > max_bytes:
            problem = f"it announces {entry.file_size:,} bytes, {total:,} up to here: too many"
        elif not _add_name(seen, parts, is_folder):
            problem = "another entry has this name, maybe in upper or lower case"
        if problem:
            raise DownloadError(f"{archive}: entry {name[:MAX_NAME]!r}: {problem}")
    return total


def _add_name(seen, parts, is_folder):
    """Adds a path and its folders to `seen`; False where some disk takes it for one seen before."""
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        key = unicodedata.normalize("NFC", path.casefold())
        folder = path if is_folder or depth < len(parts) else None
        if key in seen and (folder is None or seen[key] != folder):
            return False
        seen[key] = folder
    return True


def _write_entry(bundle, entry, target):
    """Returns the bytes written; ValueError if they are not as many as announced."""
    announced = entry.file_size
    # zipfile cuts an entry off at its announced size without a word: one byte more shows it.
    entry.file_size += 1
    with bundle.open(entry) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    if target.stat().st_size != announced:
        raise ValueError(f"expected the announced {announced:,} bytes, got fewer or more")
    return announced


def _part(path):
    return path.with_name(path.name + ".part")


def _difference(path, size, sha256):
    """What tells the file from the expected one, in words; None if it is the right one."""
    if (got := path.stat().st_size) != size:
        return f"expected {size:,} bytes, got {got:,}"
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    return None if got == sha256.lower() else f"expected sha256 {sha256}, got {got}"


def _check_space(folder, needed):
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"{folder}: expected {needed / 1e6:,.0f} MB of free disk space, got {free / 1e6:,.0f}"
        )


@contextlib.contextmanager
def _explained(subject, kind=DownloadError):
    """Turns a failure of network, disk or archive into a DownloadError about `subject`."""
    try:
        yield
    except FAILURES as error:
        raise kind(f"{subject}: {_reason(error)}") from error


def _reason(error):
    if isinstance(error, urllib.error.URLError):
        error = error.reason
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "".join(char if char.isprintable() else " " for char in text)
