"""One photo: from path or bytes to an upright RGB square array, or `PhotoError` with the reason.

Training, scoring and prediction all read photos with `load_photo`, so that all see the same pixels.
Every function may be called from many threads.
"""

import errno
import io
import os
import stat
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, WebPImagePlugin  # noqa: F401  it adds WEBP to Image.OPEN

from catdog.files import printable

Image.preinit()  # adds the other formats

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 89_478_485  # where Pillow starts to warn; a photo this big takes 0.4 GB as RGB
MAX_SCANNED_PIXELS = 3e9  # pixels times scans of a progressive JPEG: about two seconds of work

# Pillow warns of odd EXIF blocks and the like on stderr. Set once, here: catch_warnings changes the
# filters of the whole process, so that threads would undo each other's.
warnings.filterwarnings("ignore", module=r"PIL\.")


class PhotoError(Exception):
    """A photo that cannot be read. The message is the reason alone, one line, without the path."""


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the content of a regular file of up to `MAX_BYTES`; never waits for a pipe or device.

    Raises: PhotoError for anything else, and for a file that cannot be read.
    """

    def open_without_waiting(path, flags):
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))

    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())  # of what is open: the path may lead elsewhere by now
            if not stat.S_ISREG(status.st_mode):
                raise PhotoError("not a regular file")
            data = file.read(min(status.st_size, MAX_BYTES) + 1)
    except (OSError, ValueError) as error:
        raise PhotoError(_why_unreadable(path, error)) from error
    if len(data) > MAX_BYTES:
        raise PhotoError(f"larger than the limit of {MAX_BYTES // 2**20} MiB")
    return data


def open_photo(source: str | os.PathLike | bytes, draft_size: int | None = None) -> Image.Image:
    """Decodes a photo at its own aspect ratio.

    Args:
        source: path, or the bytes of a file. One of `FORMATS`, whatever the name ends with.
        draft_size: pixels. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, several
            times faster, but with both sides still at least one and a half times this long.

    Returns: the first frame as an RGB image, turned upright by its EXIF orientation. Transparent
        parts are white, as on a web page; 16-bit grey is scaled to 8 bits.

    Raises: PhotoError if the file cannot be read, is no image of these formats, is damaged or
        truncated, or has more than `MAX_PIXELS`.
    """
    data = source if isinstance(source, bytes) else read_bytes(source)
    if not data:
        raise PhotoError("is empty")
    try:
        return _decode(data, draft_size)
    except PhotoError:
        raise
    except (
        Image.DecompressionBombError
    ) as error:  # some formats ask Pillow before they tell the size
        raise PhotoError(f"more than the limit of {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except MemoryError as error:
        raise PhotoError("needs more memory than there is") from error
    except Exception as error:  # on damaged files Pillow raises nearly every kind there is
        text = printable(" ".join(str(error).split()) or type(error).__name__)
        truncated = isinstance(error, EOFError) or "truncated" in text.lower()
        raise PhotoError("truncated" if truncated else f"damaged: {text[:200]}") from error


def load_photo(source: str | os.PathLike | bytes, size: int) -> np.ndarray:
    """Decodes a photo and squashes it to a square, without keeping its aspect ratio.

    Args:
        source: path, or the bytes of a file.
        size: side of the square in pixels.

    Returns: read-only uint8 array `(size, size, 3)`, RGB, 0 to 255.

    Raises: PhotoError, as `open_photo` does.
    """
    image = open_photo(source, draft_size=size)
    if image.size != (size, size):  # or Pillow would copy it
        # Averages all pixels under each new one, so that fine fur does not turn into a pattern.
        image = image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(image)


def find_files(folder: str | os.PathLike) -> Iterator[str]:
    """Yields the paths of the image files below a folder, told by their endings (`SUFFIXES`).

    Sorted by name, the files of a folder before those of its subfolders. Hidden files and folders
    (`.name`) are left out. Links are followed, but no folder is entered twice. What cannot be
    listed as a folder is yielded itself: `read_bytes` says why.
    """
    entered = set()
    waiting = [os.fsdecode(folder)]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except (OSError, ValueError):
            yield folder
            continue
        folders = []
        for entry in sorted(visible, key=lambda entry: entry.name):
            # entry.is_dir() needs no system call, but raises for a link that leads to itself.
            if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
                folders.append(entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                yield entry.path
        waiting.extend(reversed(folders))


class _Source(io.BytesIO):
    """Bytes that can be read in a limited number of steps.

    Pillow walks through the parts of a header one by one in Python: a file of nothing but four-byte
    parts would keep it busy for a minute. Photos need a few steps, or three for 8 KB of a PNG.
    """

    def __init__(self, data: bytes):
        super().__init__(data)
        self.steps = 10_000 + len(data) // 200

    def read(self, size: int | None = -1) -> bytes:
        self.steps -= 1
        if self.steps < 0:
            raise PhotoError("damaged: cut into too many parts")
        return super().read(size)


def _decode(data: bytes, draft_size: int | None) -> Image.Image:
    # What Image.open(formats=FORMATS) does, which however complains of a big picture on stderr
    # before its size can be asked for, and keeps to itself what is wrong with a header.
    opener = next((Image.OPEN[name][0] for name in FORMATS if Image.OPEN[name][1](data[:16])), None)
    if opener is None:
        expected = ", ".join(FORMATS)
        raise PhotoError(f"not an image: expected {expected}, but it begins with {data[:16]!r}")
    if data.count(b"Exif\0\0") > 100:  # Pillow joins them one by one: minutes for 64 MB of them
        raise PhotoError("damaged: cut into too many parts")
    image = opener(_Source(data), "")

    width, height = image.size
    if width * height > MAX_PIXELS:
        megapixels = f"{MAX_PIXELS / 1e6:.0f} megapixels"
        raise PhotoError(f"{width}x{height} is more than the limit of {megapixels}")
    if min(width, height) < 1:
        raise PhotoError(f"has no pixels: {width}x{height}")
    scans = data.count(b"\xff\xda") if "progressive" in image.info else 1
    if width * height * scans > MAX_SCANNED_PIXELS:  # a scan is a few bytes, but a walk over all
        raise PhotoError(f"damaged: {scans} scans of {width}x{height} pixels in one JPEG")

    if draft_size:
        image.draft(None, (round(1.5 * draft_size), round(1.5 * draft_size)))
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block: the pixels are whole
        pass
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 0 to 65535, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _why_unreadable(path: str | os.PathLike, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "not a possible file name"
    # Windows denies permission to open any folder; elsewhere a folder may really be closed.
    if os.path.isdir(path) and (os.name == "nt" or not isinstance(error, PermissionError)):
        return "a folder"
    if isinstance(error, FileNotFoundError):
        return "a broken link" if os.path.islink(path) else "not found"
    reasons = {
        errno.EACCES: "permission denied",
        errno.ELOOP: "a link that leads back to itself",
        errno.ENXIO: "not a regular file",
    }
    return reasons.get(error.errno) or (error.strerror or str(error)).lower()
