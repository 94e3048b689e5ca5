"""One photo: from a path or bytes to an upright RGB array, or `PhotoError` with the reason.

Training, scoring and prediction all read photos with `load_photo`, so that all see the same pixels.
Every function may be called from many threads.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import io
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from catdog.files import printable

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
FORMATS += ("AVIF",) if AvifImagePlugin.SUPPORTED else ()
# How the names of images end. Those of kinds that cannot be read are found too, to be named with
# the reason; HEIC is read where pillow-heif is installed.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".avif")
SUFFIXES += (".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".hif")
SUFFIXES += (".jp2", ".j2k", ".jxl", ".psd", ".psb", ".xcf", ".svg", ".ico", ".tga", ".eps")
SUFFIXES += (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".dcm")
ENDING = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{0,4}", re.DOTALL)  # photo.jpg_large has none
# What other systems keep beside photos: thumbnails, waste bins, what was lost.
SYSTEM_FOLDERS = {"@eadir", "@__thumb", "@recycle", "@tmp", "#recycle", "#snapshot", "lost+found"}
SYSTEM_FOLDERS |= {"__macosx", "__pycache__", "$recycle.bin", "system volume information"}
PILLOW_HEIF = (1, 8, 1)  # 1.7.0 ends the process on an item whose type is not text

MAX_BYTES = 64 * 2**20  # of a file, and of the files that all threads hold together
MAX_PIXELS = 89_478_485  # where Pillow starts to warn
MAX_JPEG_PIXELS = 200_000_000  # of a JPEG that is decoded small; phones make 108 megapixels
# Of what Pillow decodes in Python, in up to 0.2 and 2 us per pixel: run-length BMP, and PPM of
# another depth than 8 bits.
MAX_SLOW_PIXELS = {"bmp_rle": 16e6, "ppm": 2e6}
MAX_SCANNED_PIXELS = 3e9  # pixels times scans of a JPEG: about two seconds of work
MAX_NUMBERS = 100_000  # in a tag of a TIFF; each takes Pillow a microsecond
MIN_LEVELS = 48  # that are left of a grey photo of more than 8 bits, if it has as many
MAX_MEMORY = 750 * 2**20  # bytes that all threads together decode into
STRIP = 2**20  # pixels that are converted to RGB at a time

# Memory that Pillow needs to decode a pixel, in bytes, measured on photos of 81 megapixels. Pillow
# keeps four bytes per RGB pixel.
BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 12, "HEIC": 8}


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF that is loaded as other files are: not turned, and without the rest of its EXIF."""

    def load_end(self):
        self.getexif()  # later, the file is closed
        self._size = self.im.size


# How the files begin that Pillow can read, and in its order of trying them.
_OPENERS: dict[str, tuple[bytes, Callable]] = {
    "JPEG": (rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    "GIF": (rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    "BMP": (rb"BM", BmpImagePlugin.BmpImageFile),
    "WEBP": (rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    "TIFF": (rb"(II\*\0|MM\0\*)(?!....CR)", _Tiff),
    "PPM": (rb"P[4-6][\s#]", PpmImagePlugin.PpmImageFile),
    "AVIF": (rb"....ftyp(avi[fs]|m[is]f1....(....){0,12}avif)", AvifImagePlugin.AvifImageFile),
}
_HEIC = rb"....ftyp(hei[cmsx]|hev[cmsx]|m[is]f1)"
_RAW = "a raw photo of a camera"
# How other files begin, what they are, and what helps: where nothing is said, to convert them.
_OTHERS = {
    _HEIC: 'HEIC; to read such photos, run pip install "pillow-heif>=1.8.1"',
    _OPENERS["AVIF"][0]: 'AVIF; to read such photos, run pip install --upgrade "pillow>=13.0"',
    rb"II\*\0....CR|....ftypcrx |FUJIFILM|IIR[OS]|IIU\0": _RAW,
    rb"II\+\0|MM\0\+": "BigTIFF",
    rb"P[1-37FfG][\s#]": "PPM as text or of floats",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"\0\0\0\x0cJXL |\xff\x0a": "JPEG XL",
    rb".{128}DICM": "DICOM",
    rb"\0\0\x01\0": "an icon",
    rb"%!PS|\xc5\xd0\xd3\xc6": "PostScript",
    rb"8BPS": "Photoshop",
    rb"gimp xcf": "GIMP",
    rb"(\xef\xbb\xbf)?\s*<(svg|\?xml.*<svg|!--.*<svg|!DOCTYPE svg)": "SVG",
    rb"%PDF-": "a PDF document",
    rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|script))":
        "a web page; download the photo itself",
    rb"....(ftyp|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF....AVI ":
        "a video; save a frame of it as JPEG",
}  # fmt: skip

_ORIENTATION = 0x0112  # a tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(Exception):
    """A photo that cannot be read. The message is the reason alone, one line, without the path."""


class _Budget:
    """Bytes of memory that threads draw from and give back."""

    def __init__(self, total: int):
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait until `amount` bytes (at most all of them) are free, and hold them in the block."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


# A thread takes of the first, then of the second, so that none waits for another in a circle.
_files, _pixels = _Budget(MAX_BYTES), _Budget(MAX_MEMORY)


# --- Reading --------------------------------------------------------------------------------------


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return the content of a file of up to `MAX_BYTES`; raise PhotoError for anything else."""
    try:
        with _opened(path) as file:
            status = os.fstat(file.fileno())  # of what is open: the path may lead elsewhere by now
            if not stat.S_ISREG(status.st_mode):
                raise PhotoError("not a regular file")
            data = file.read(min(status.st_size, MAX_BYTES) + 1)
    except (OSError, ValueError) as error:
        raise PhotoError(_why_unreadable(path, error)) from error
    if len(data) > MAX_BYTES:
        raise PhotoError(f"larger than the limit of {MAX_BYTES // 2**20} MiB")
    return data


def _opened(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading, without waiting for a pipe or a device."""
    more = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    return open(path, "rb", opener=lambda path, flags: os.open(path, flags | more))


@contextlib.contextmanager
def content_of(path: str | os.PathLike) -> Iterator[bytes]:
    """Yield what `read_bytes` returns, in a block that bounds the memory of all threads."""
    size = 0
    with contextlib.suppress(OSError, ValueError):
        size = min(os.path.getsize(path), MAX_BYTES)
    with _files.take(size):
        yield read_bytes(path)


def _why_unreadable(path: str | os.PathLike, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "not a possible file name"
    # Windows denies permission to open any folder; elsewhere a folder may really be closed.
    if os.path.isdir(path) and (os.name == "nt" or not isinstance(error, PermissionError)):
        return "a folder"
    if re.match(r"(?i)[a-z]{2,}:/", os.fsdecode(path)):
        return "addresses are not read: download the photo"
    if isinstance(error, FileNotFoundError):
        return "a broken link" if os.path.islink(path) else "not found"
    return (error.strerror or str(error)).lower()


def find_files(folder: str | os.PathLike) -> Iterator[str]:
    """Yield the paths of the image files below a folder, in the order of `walk`.

    What cannot be listed as a folder is yielded itself: `read_bytes` says why.
    """
    errors = []
    for parent, names, _ in walk(folder, errors.append):
        yield from (error.filename for error in errors)
        errors.clear()
        yield from (os.path.join(parent, name) for name in names)
    yield from (error.filename for error in errors)


def walk(
    folder: str | os.PathLike,
    on_error: Callable[[OSError], None],
    skip: str | os.PathLike | None = None,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (folder, names of image files, names of other files) of a folder and those below it.

    Sorted by name, a folder before its subfolders. An image file has one of `SUFFIXES`, or no
    ending and the first bytes of an image. Hidden files and folders (`.name`), `SYSTEM_FOLDERS` and
    the folder `skip` are left out. Links are followed, but no folder is entered twice.

    Args:
        on_error: called with the error of each folder that cannot be listed.
    """
    entered = set()
    if skip is not None:
        with contextlib.suppress(OSError):
            entered.add(os.path.realpath(skip))
    for parent, folders, names in os.walk(os.fsdecode(folder), onerror=on_error, followlinks=True):
        place = os.path.realpath(parent)
        if place in entered:
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(
            name for name in folders if name[0] != "." and name.lower() not in SYSTEM_FOLDERS
        )
        names = sorted(name for name in names if name[0] != ".")
        photos, others = [], []
        for name in names:
            (photos if _is_image(parent, name) else others).append(name)
        yield parent, photos, others


def _is_image(parent: str, name: str) -> bool:
    """Return whether a file is named as an image or, without an ending, begins as one."""
    if name.lower().endswith(SUFFIXES):
        return True
    if ENDING.fullmatch(name):
        return False
    with contextlib.suppress(OSError, ValueError), _opened(os.path.join(parent, name)) as file:
        start = file.read(64) or b""  # a pipe has nothing to read yet
        patterns = [_HEIC, *(pattern for pattern, _ in _OPENERS.values())]
        return any(re.match(pattern, start, re.DOTALL) for pattern in patterns)
    return False


# --- Decoding -------------------------------------------------------------------------------------


def open_photo(source: str | os.PathLike | bytes, side: int | None = None) -> Image.Image:
    """Decode a photo at its own aspect ratio.

    Args:
        source: path, or the bytes of a file. One of `FORMATS`, whatever the name ends with.
        side: pixels; a photo with a longer side is made smaller, so that it has this one.
    Returns:
        The first frame as an RGB image of pixels and nothing else (no EXIF, no comment), turned
        upright by its EXIF orientation. Transparent pixels are white.
    Raises:
        PhotoError: the file cannot be read, is no image of these formats, is damaged or too large.
    """

    def fit(image):
        scale = side / max(image.size) if side else 1
        size = [max(1, round(length * scale)) for length in image.size]
        return image if scale >= 1 else image.resize(size, reducing_gap=3.0)

    return _open(source, side, fit)


def load_photo(source: str | os.PathLike | bytes, size: int) -> np.ndarray:
    """Decode a photo as `open_photo`, and squash it: read-only uint8 `(size, size, 3)`, RGB."""
    return np.asarray(_open(source, size, lambda image: _square(image, size)))


def load_image(image: Image.Image, size: int) -> np.ndarray:
    """Return a PIL image as `load_photo` returns a photo."""
    try:
        turn = _TURNS.get(_orientation(image))
        square = _square(_to_rgb(image, size), size)
        return np.asarray(square if turn is None else square.transpose(turn))
    except Exception as error:  # Pillow decodes an image only now that its pixels are asked for
        raise PhotoError(f"damaged: {printable(str(error))[:200]}") from error


def _square(image, size):
    # Averages all pixels under each new one, so that fine fur does not turn into a pattern.
    return image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)


def _open(source, draft_size, finish):
    """Decode a photo, and hold the memory for it until `finish` has made an image of the result.

    With a draft size, the image may be smaller than the photo, but both its sides are at least one
    and a half times as long as that (or as in the photo): decoded several times faster.
    """
    if not isinstance(source, bytes):
        with content_of(source) as data:
            return _open(data, draft_size, finish)
    if not source:
        raise PhotoError("is empty")
    try:
        return _decode(source, draft_size, finish)
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError("needs more memory than there is") from error
    except Exception as error:  # on damaged files Pillow raises nearly every kind there is
        text = printable(" ".join(str(error).split()) or type(error).__name__)
        truncated = isinstance(error, EOFError) or "truncated" in text.lower()
        raise PhotoError("truncated" if truncated else f"damaged: {text[:200]}") from error


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


@functools.cache
def _set_up_pillow():
    """Hide Pillow's warnings, and let it give memory back. Two threads at once do no harm.

    Once for the whole process: `catch_warnings` in one thread would undo that of another.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # The C library keeps freed blocks of up to 32 MiB for their thread, and Pillow's have 16: four
    # threads that take turns at photos of 360 MB held 1,070.
    Image.core.set_block_size(2**26)


def header(data: bytes) -> tuple[str, Image.Image]:
    """Return the format of a file, and its image, of which only the header was read."""
    _set_up_pillow()
    # What Image.open(formats=FORMATS) does, which however keeps to itself what is wrong with a
    # header, and refuses a JPEG of 180 megapixels that could be decoded small.
    kind, opener = _opener(data)
    if kind == "TIFF":
        _check_tags(data)
    return kind, opener(_Source(_without_metadata(data, kind)), "")


def _decode(data, draft_size, finish):
    kind, image = header(data)
    width, height = image.size
    scans = _scans(data, image) if kind == "JPEG" else 0
    codec = image.tile[0][0] if image.tile else ""
    if codec in MAX_SLOW_PIXELS:
        image.fp.steps += min(len(data), 4_000_000)  # it reads a few bytes at a time
    if draft_size:
        image.draft(None, (round(1.5 * draft_size), round(1.5 * draft_size)))
    most = MAX_JPEG_PIXELS if kind == "JPEG" and image.size != (width, height) else MAX_PIXELS
    most = MAX_SLOW_PIXELS.get(codec, most)
    if width * height > most:
        limit = f"the limit of {most / 1e6:.0f} megapixels"
        raise PhotoError(f"{width}x{height} is more than {limit}")
    if width * height * scans > MAX_SCANNED_PIXELS:  # each is a few bytes, but a walk over all
        raise PhotoError(f"damaged: {scans} scans of {width}x{height} pixels in one JPEG")
    memory = _memory(kind, image, width, height)
    if scans:
        memory += 2 * width * height * image.layers  # coefficients, whatever the size of the draft
    if memory > MAX_MEMORY:
        raise PhotoError(
            f"{width}x{height} takes {memory / 2**20:,.0f} MiB to decode, more than the limit "
            f"of {MAX_MEMORY // 2**20}"
        )
    is_deep = kind in ("PNG", "TIFF") and image.mode[:3] == "RGB" and ";16" in str(image.tile[:1])
    with _pixels.take(memory):
        image.load()
        # Pillow has cut each colour to its upper 8 bits.
        if is_deep and max(high for _, high in image.getextrema()[:3]) < 64:
            raise PhotoError("uses few of its 16 bits per colour; save it with 8 bits")
        turn = None if kind == "HEIC" else _TURNS.get(_orientation(image))  # libheif turns it
        image = _to_rgb(image, draft_size)
        image.info = {}  # or a comment would be saved with what is drawn from the photo
        return finish(image if turn is None else image.transpose(turn))


def _memory(kind: str, image: Image.Image, width: int, height: int) -> float:
    """Return the bytes that decoding takes. `image` may be a draft, smaller than `width`."""
    # What Pillow needs for a pixel, and four bytes for what is made of it.
    memory = image.width * image.height * (BYTES_PER_PIXEL.get(kind, 4) + 4)
    memory += 16 * (width + height)  # each row costs memory, be it a pixel wide
    if kind == "TIFF":  # a strip, or a tile, which may be larger than the image
        tags = image.tag_v2
        rows = tags.get(323) or min(height, tags.get(278, height))
        memory += 8 * float(tags.get(322, width)) * float(rows)
    return memory


def _scans(data: bytes, image: Image.Image) -> int:
    """Return how many scans libjpeg collects before it has a pixel; 0 if it needs the first alone.

    That is where the first one, at whose data `image` stands, has fewer than all components.
    """
    first = data.rindex(b"\xff\xda\0", 0, image.fp.tell() - 7)
    if data[first + 4] == image.layers and "progressive" not in image.info:
        return 0
    return data.count(b"\xff\xda", first)


def _opener(data: bytes) -> tuple[str, Callable]:
    """Return the format of a file, and the class of Pillow that opens it."""
    start = data[:1024]
    for kind in FORMATS:
        pattern, opener = _OPENERS[kind]
        if re.match(pattern, start, re.DOTALL):
            return kind, opener
    if re.match(_HEIC, start, re.DOTALL) and (opener := _heif_opener()):
        return "HEIC", opener
    for pattern, what in _OTHERS.items():
        if re.match(pattern, start, re.DOTALL):
            raise _unread(what)
    expected = ", ".join(FORMATS)
    raise PhotoError(f"not an image: expected {expected}, but it begins with {data[:16]!r}")


def _unread(what: str) -> PhotoError:
    help = "" if ";" in what else "; convert it to JPEG or PNG"
    return PhotoError(f"expected {', '.join(FORMATS)}, got {what}{help}")


def _heif_opener() -> Callable | None:
    try:
        version = importlib.metadata.version("pillow_heif")
        if tuple(map(int, re.findall(r"\d+", version)[:3])) < PILLOW_HEIF:
            return None
        return importlib.import_module("pillow_heif").HeifImageFile
    except ImportError:  # PackageNotFoundError is one, too
        return None


def _without_metadata(data: bytes, kind: str) -> bytes:
    """Return the file with those blocks renamed that Pillow would take long to read."""
    if kind == "JPEG":
        if data.count(b"Exif\0\0") > 100:  # each is copied to the end of all before it
            raise PhotoError("damaged: cut into too many parts")
        return data.replace(b"Photoshop 3.0\0", b"photoshop 3.0\0")
    if kind == "AVIF":  # it is written anew if its orientation is not in EXIF
        return re.sub(rb"(infe.{8}(?:..)?)Exif", rb"\1none", data, flags=re.DOTALL)
    return data


def _check_tags(data: bytes) -> None:
    """Refuse a TIFF that is a raw photo, or that has a tag of very many numbers."""
    order = "<" if data[:1] == b"I" else ">"
    (start,) = struct.unpack_from(order + "4xI", data)
    (count,) = struct.unpack_from(order + "H", data, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, count, value = struct.unpack_from(order + "HHI4s", data, place)
        if kind not in (1, 2, 7) and count > MAX_NUMBERS:  # no bytes, which are not unpacked
            raise PhotoError(f"damaged: a tag of {count:,} numbers")
        # A smaller picture comes first, or the version of DNG is given.
        if (tag == 254 and b"\1" in value) or tag == 50706:
            raise _unread(_RAW)


def _orientation(image: Image.Image) -> int | None:
    """Return the orientation, from 1 to 8, that EXIF says, or XMP where EXIF does not."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken block: the pixels are whole
        return None


def _to_rgb(image: Image.Image, draft_size: int | None) -> Image.Image:
    """Return an image in RGB; with a draft size, it is made smaller by a whole number if large.

    Goes strip by strip, so that a photo of 89 megapixels is never in memory twice.
    """
    factor = max(1, min(image.size) // (3 * draft_size)) if draft_size else 1
    if image.mode == "RGB" and factor == 1 and not image.has_transparency_data:
        return image
    width, height = image.size
    white = _white(image)
    rows = max(1, STRIP // width // factor) * factor
    if rows >= height:
        image = _converted(image, white)
        return image.reduce(factor) if factor > 1 else image
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        result.paste(_converted(strip, white).reduce(factor), (0, top // factor))
    return result


def _white(image: Image.Image) -> int | None:
    """Return which value is white in a grey image of more than eight bits; None for any other.

    A camera of 12 bits writes 0 to 4095 into 16: white is the largest number of 8, 10, 12, 14 or 16
    bits, whichever is enough for 99% of the levels: letters on an X-ray and hot pixels are lighter.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    low, high = (image.convert("I") if image.mode == "I;16B" else image).getextrema()
    if image.mode == "F" or low < 0 or high > 65535:
        raise PhotoError("its pixels are no numbers from 0 to 65535; save it with 8 or 16 bits")
    (width, height), is_there = image.size, np.zeros(65536, bool)
    for top in range(0, height, rows := max(1, STRIP // width)):
        is_there[np.asarray(image.crop((0, top, width, min(top + rows, height))))] = True
    levels = np.flatnonzero(is_there)
    bits = max(8, int(levels[int(0.99 * len(levels))]).bit_length())
    white = 2 ** (bits + bits % 2) - 1
    left = len(np.unique(_to_8_bits(levels, white)))
    if left < MIN_LEVELS <= len(levels):
        raise PhotoError(
            f"its {len(levels):,} grey levels become {left} of 256; save it with 8 bits"
        )
    return white


def _to_8_bits(grey: np.ndarray, white: int) -> np.ndarray:
    levels = (grey.astype(np.uint32) * 255 + white // 2) // white
    return np.minimum(levels, 255).astype(np.uint8)


def _converted(image: Image.Image, white: int | None) -> Image.Image:
    if white:  # Pillow would clip at 255
        image = Image.fromarray(_to_8_bits(np.asarray(image), white))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
