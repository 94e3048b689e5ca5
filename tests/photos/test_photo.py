"""Photos made here, intact and broken, and what photo.py makes of them."""

import errno
import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from catdog.files import printable
from catdog.photos import photo
from catdog.photos.photo import PhotoError, find_files, load_photo, open_photo
from conftest import ROOT
from photo_files import (
    BLUE,
    COLOURS,
    ENCODINGS,
    EXTREMES,
    GREEN,
    RED,
    SMALL,
    WHITE,
    encode,
    png_chunk,
    png_header,
    quarters,
)

ORIENTATION = 0x0112
SECONDS = 10  # for a photo that takes a few ms: only what hangs, or nearly does, takes so long


def corners(array: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four quarters, (4, 3), row by row."""
    near, far = len(array) // 4, len(array) * 3 // 4
    return array[[near, near, far, far], [near, far, near, far]].astype(int)


def assert_colours(array, expected, tolerance):
    assert array.dtype == np.uint8
    assert array.shape[0] == array.shape[1] and array.shape[2] == 3
    np.testing.assert_allclose(corners(array), expected, atol=tolerance)


def reason(source, size=16) -> str:
    with pytest.raises(PhotoError) as error:
        load_photo(source, size)
    text = str(error.value)
    assert text and text.isprintable() and len(text) < 300
    return text


def drafted(data: bytes, draft_size: int) -> Image.Image:
    return photo._open(data, draft_size, lambda image: image)


def png_of_size(width: int, height: int) -> bytes:
    return png_header(width, height) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))


def jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(encode(quarters(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    data = bytearray(encode(quarters(), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp_of_size(width: int, height: int) -> bytes:
    data = bytearray(encode(quarters(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp_of_size(width: int, height: int) -> bytes:
    image = encode(quarters(), "WEBP", lossless=True)[12:]
    frame = bytes(6) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little") + bytes(4) + image
    body = b"WEBPVP8X" + struct.pack("<II", 10, 2)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_mode_of_every_format(name, tmp_path):
    data, expected, tolerance = ENCODINGS[name]
    array = load_photo(data, 40)
    assert array.shape == (40, 40, 3)
    assert_colours(array, expected, tolerance)
    path = tmp_path / "photo.of-any-name"
    path.write_bytes(data)
    np.testing.assert_array_equal(load_photo(path, 40), array)
    np.testing.assert_array_equal(load_photo(str(path), 40), array)
    image = open_photo(data)
    assert image.mode == "RGB"
    known = {"png interlaced": (8, 8)}
    is_small = name.startswith(("bmp", "ppm")) or name in ("tiff", "tiff cmyk")
    assert image.size == known.get(name, SMALL if is_small else (64, 48))


def test_the_photos_cover_every_format():
    assert {name.split()[0].upper() for name in ENCODINGS} == set(photo.FORMATS)


def test_adobe_cmyk_is_stored_inverted():
    # Photoshop writes 255 for no ink, and an Adobe marker that says so; Pillow writes the same.
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    np.testing.assert_allclose(load_photo(data, 4), np.full((4, 4, 3), (255, 0, 0)), atol=4)


def test_16_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 256 * 256).astype(np.uint16).reshape(256, 256)
    array = load_photo(encode(Image.fromarray(ramp), "PNG"), 256)
    np.testing.assert_array_equal(array[..., 0], np.rint(ramp / 257).astype(np.uint8))
    np.testing.assert_array_equal(array[..., 0], array[..., 2])


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("options", [("PNG",), ("TIFF",), ("TIFF", "tiff_lzw"), ("PPM",)])
def test_grey_of_fewer_bits_than_its_file_has_keeps_its_range(bits, options):
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    more = {"compression": options[1]} if len(options) > 1 else {}
    array = load_photo(encode(Image.fromarray(ramp), options[0], **more), 64)[..., 0].astype(int)
    np.testing.assert_allclose(array, ramp * (255 / (2**bits - 1)), atol=0.51)


def test_pixels_that_are_floats_or_negative_are_refused():
    for kind, value in ((np.float32, 0.5), (np.int32, -1), (np.int32, 70_000)):
        pixels = Image.fromarray(np.full((4, 4), value, kind))
        assert "no numbers from 0 to 65535" in reason(encode(pixels, "TIFF"))


def test_a_light_mark_does_not_darken_a_photo_of_few_bits():
    ramp = np.linspace(0, 4095, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    marked = ramp.copy()
    marked[:2, :30] = 65535
    array = load_photo(encode(Image.fromarray(marked), "PNG"), 64)
    np.testing.assert_array_equal(
        array[2:], load_photo(encode(Image.fromarray(ramp), "PNG"), 64)[2:]
    )
    assert (array[:2, :30] == 255).all()


def test_a_photo_that_would_lose_nearly_all_its_levels_is_refused():
    ramp = np.linspace(0, 2000, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    offset = reason(encode(Image.fromarray(ramp + 32768), "PNG"))
    assert offset == "its 2,001 grey levels become 8 of 256; save it with 8 bits"
    for scale, words in ((1, "uses few of its 16 bits per colour"), (32, None)):
        rows = b"".join(
            b"\0" + row.astype(">u2").tobytes() for row in np.repeat(ramp * scale, 3, axis=1)
        )
        header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        png = b"\x89PNG\r\n\x1a\n"
        for kind, content in chunks:
            crc = struct.pack(">I", zlib.crc32(kind + content))
            png += struct.pack(">I", len(content)) + kind + content + crc
        if words:
            assert reason(png).startswith(words)
        else:
            assert load_photo(png, 64).max() > 240


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (16, 16), (333, 77)])
def test_any_shape_becomes_the_square(size):
    array = load_photo(encode(Image.new("RGB", size, GREEN), "PNG"), 16)
    np.testing.assert_array_equal(array, np.full((16, 16, 3), GREEN))


# Upright


@pytest.mark.parametrize(
    "orientation, expected",
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
        (0, [RED, GREEN, BLUE, WHITE]),
        (9, [RED, GREEN, BLUE, WHITE]),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(format, orientation, expected):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(quarters((640, 480)), format, exif=exif)
    assert_colours(load_photo(data, 40), expected, 12)
    turned = orientation in (5, 6, 7, 8)
    assert open_photo(data).size == ((480, 640) if turned else (640, 480))
    draft = drafted(data, 40)
    assert (draft.height > draft.width) == turned


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0MM\0*",
        b"Exif\0\0" + b"\xff" * 40,
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\0" * 9,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_broken_exif_block_does_not_lose_the_photo(format, exif):
    assert_colours(load_photo(encode(quarters(), format, exif=exif), 40), COLOURS, 12)


def exif_of_rationals(count: int, endian: str) -> bytes:
    """A block of EXIF with the orientation 6 and tags of `count` rationals in all."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[endian] + struct.pack(endian + "I", 8)
    tags = [(ORIENTATION, 3, 1, 6 if endian == "<" else 6 << 16)]
    tags += [(tag, 5, count, 8 + 2 + 3 * 12 + 4) for tag in (0x011A, 0x011B)]
    body = struct.pack(endian + "H", len(tags))
    body += b"".join(struct.pack(endian + "HHII", *tag) for tag in tags) + bytes(4)
    return head + body + b"\0\0\0\1" * 2 * count


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the encoder
@pytest.mark.parametrize("endian", "<>")
def test_exif_of_millions_of_numbers_is_not_read(endian):
    exif = exif_of_rationals(500_000, endian)
    png = encode(quarters(), "PNG")
    png = png[:33] + png_chunk(b"eXIf", exif) + png[33:]
    private = exif.replace(struct.pack(endian + "H", 0x11A), struct.pack(endian + "H", 50_000), 1)
    jpeg = encode(quarters(), "JPEG")
    parts = [exif[i : i + 65_000] for i in range(0, len(exif), 65_000)]
    parts = [b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts]
    jpeg = jpeg[:2] + b"".join(parts) + jpeg[2:]
    webp = encode(quarters(), "WEBP", exif=exif)
    avif = encode(quarters(), "AVIF", exif=private)  # Pillow keeps no known tag so long
    assert len(avif) > 4_000_000
    for data in (png, jpeg, webp, avif):
        started = time.process_time()
        assert_colours(load_photo(data, 40), [BLUE, RED, WHITE, GREEN], 12)
        assert time.process_time() - started < 1


@pytest.mark.parametrize("xmp", ['tiff:Orientation="6"', "<tiff:Orientation>6</tiff:Orientation>"])
def test_orientation_in_xmp_or_in_imagemagicks_text_turns_too(xmp):
    expected = [BLUE, RED, WHITE, GREEN]
    for kind in ("JPEG", "WEBP"):
        assert_colours(load_photo(encode(quarters(), kind, xmp=xmp.encode()), 40), expected, 12)
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    assert_colours(load_photo(encode(quarters(), "PNG", pnginfo=text), 40), expected, 0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    block = exif.tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    assert_colours(load_photo(encode(quarters(), "PNG", pnginfo=text), 40), expected, 0)


def test_the_orientation_of_another_picture_in_the_file_does_not_turn():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encode(quarters(), "JPEG") + encode(quarters(), "JPEG", exif=exif)
    assert_colours(load_photo(data, 40), COLOURS, 12)


# Decoding big JPEGs small


def texture(width, height) -> Image.Image:
    """Noise at several scales, as in a photo of fur."""
    random = np.random.default_rng(7)
    total = np.zeros((height, width, 3), np.float32)
    for step in (8, 16, 64, 256):
        noise = random.integers(0, 256, (-(-height // step), -(-width // step), 3), np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((width, height), 3), np.float32) / 4
    return Image.fromarray(total.astype(np.uint8))


@pytest.mark.parametrize("size", [(1600, 1200), (901, 1333), (700, 2100)])
@pytest.mark.parametrize("draft_size", [24, 64, 160, 400])
def test_draft_is_close_to_full_decoding(size, draft_size):
    data = encode(texture(*size), "JPEG", quality=90)
    full, draft = open_photo(data), drafted(data, draft_size)
    assert full.size == size
    assert min(draft.size) >= min(1.5 * draft_size, *size)
    assert draft.width / draft.height == pytest.approx(size[0] / size[1], rel=0.01)
    square = full.resize((draft_size, draft_size), Image.Resampling.BILINEAR)
    difference = np.abs(load_photo(data, draft_size).astype(int) - np.asarray(square, int))
    assert difference.mean() < 2.5  # of 255, on noise; photos differ by a third of that


def test_a_big_jpeg_is_decoded_small():
    data = encode(quarters((1600, 1200)), "JPEG")
    assert drafted(data, 64).size == (200, 150)
    assert drafted(data, 160).size == (400, 300)
    assert drafted(data, 400).size == (800, 600)
    assert drafted(data, 401).size == (1600, 1200)


def test_a_jpeg_of_108_megapixels_is_read_small():
    data = encode(quarters((12_000, 9_000)), "JPEG")
    assert_colours(load_photo(data, 40), COLOURS, 12)
    assert drafted(data, 400).size == (1500, 1125)


@pytest.mark.parametrize("name", ["png alpha", "png palette", "png 16 bit", "gif cut out"])
def test_other_large_photos_are_made_smaller_strip_by_strip(name, monkeypatch):
    data, expected, tolerance = ENCODINGS[name]
    monkeypatch.setattr(photo, "STRIP", 64 * 5)  # pixels: strips of five rows
    assert_colours(load_photo(data, 40), expected, tolerance)
    assert open_photo(data).size == (64, 48)
    small = drafted(data, 7)
    assert small.size == (32, 24)
    assert_colours(load_photo(data, 8), expected, tolerance)


# Memory

PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from catdog.photos.photo import load_photo, open_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(16) as pool:
    shapes = list(pool.map(lambda path: load_photo(path, 64).shape, sys.argv[1:]))
assert shapes == [(64, 64, 3)] * len(shapes)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_many_threads_on_the_largest_photos_take_less_than_a_gigabyte(tmp_path):
    # In each of 16 threads at once, they would take 4,800 MB.
    image = Image.new("RGBA", (5000, 5000), (200, 0, 0, 128))
    image.save(tmp_path / "a.png", compress_level=1)
    command = [sys.executable, "-c", PEAK, *[str(tmp_path / "a.png")] * 16]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert float(done.stdout) < 1000  # MiB


@pytest.mark.slow
def test_memory_of_a_large_photo_is_given_back_by_each_thread(tmp_path):
    Image.new("LA", (9000, 5000)).save(tmp_path / "a.png", compress_level=1)  # 180 MB
    code = PEAK.replace("ThreadPoolExecutor(16)", "ThreadPoolExecutor(4)")
    command = [sys.executable, "-c", code, *[str(tmp_path / "a.png")] * 8]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert float(done.stdout) < 480  # MiB; 550 if the C library keeps it


def test_what_takes_too_much_memory_alone_is_refused():
    data = encode(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, method=0, quality=0)
    assert reason(data) == "8000x8000 takes 1,221 MiB to decode, more than the limit of 750"


def test_a_budget_is_shared_and_given_back():
    budget, most, lock = photo._Budget(100), [0, 0], threading.Lock()

    def work(amount):
        with budget.take(amount):
            with lock:
                most[0] += min(amount, 100)
                most[1] = max(most)
            time.sleep(0.001)
            with lock:
                most[0] -= min(amount, 100)
        with pytest.raises(PhotoError), budget.take(amount):
            raise PhotoError

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [10, 60, 1000, 30, 100, 0] * 10))
    assert most == [0, 100] and budget._free == 100


# Bad input, each with its reason


def test_empty(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "is empty"
    assert reason(b"") == "is empty"


FTYP = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    "data",
    [b"\0", b"\n" * 5000, *(encode(quarters(), kind) for kind in ("TGA", "DDS", "SGI"))],
)
def test_other_files_named_jpg(data, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    text = reason(path)
    assert text.startswith(
        "not an image: expected JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM, AVIF, but it begins"
    )
    assert repr(data[:16]) in text


CONVERT = "convert it to JPEG or PNG"


@pytest.mark.parametrize(
    ("data", "name", "help"),
    [
        (FTYP + b"heic\0\0\0\0mif1heic", "HEIC", 'run pip install "pillow-heif>=1.8.1"'),
        (FTYP + b"mif1\0\0\0\0mif1heic", "HEIC", 'run pip install "pillow-heif>=1.8.1"'),
        (b"II*\0\x10\0\0\0CR\2\0", "a raw photo of a camera", CONVERT),
        (encode(quarters(), "TIFF", tiffinfo={254: 1}), "a raw photo of a camera", CONVERT),
        (encode(quarters(), "ICO"), "an icon", CONVERT),
        (encode(quarters(), "EPS"), "PostScript", CONVERT),
        (b"P3 2 2 9\n", "PPM as text or of floats", CONVERT),
        (bytes(128) + b"DICM", "DICOM", CONVERT),
        (encode(quarters(), "JPEG2000"), "JPEG 2000", CONVERT),
        (b"\xff\x0a\0\0", "JPEG XL", CONVERT),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", CONVERT),
        (b'<?xml version="1.0"?>\n<svg/>', "SVG", CONVERT),
        (b"%PDF-1.7", "a PDF document", CONVERT),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page", "the photo itself"),
        (b"\xef\xbb\xbf \n<HTML>", "a web page", "the photo itself"),
        (FTYP + b"isom\0\0\0\0isommp42", "a video", "save a frame of it as JPEG"),
        (FTYP + b"qt  \0\0\0\0qt  ", "a video", "save a frame of it as JPEG"),
        (b"\x1aE\xdf\xa3\0\0", "a video", "save a frame of it as JPEG"),
        (b"RIFF\0\0\0\0AVI LIST", "a video", "save a frame of it as JPEG"),
    ],
)
def test_other_files_are_named_with_what_helps(data, name, help, monkeypatch):
    monkeypatch.setattr(photo, "_heif_opener", lambda: None)  # as where it is not installed
    text = reason(data)
    assert text.startswith(f"expected JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM, AVIF, got {name}; ")
    assert text.endswith(help)


def test_avif_is_named_where_pillow_cannot_read_it(monkeypatch):
    monkeypatch.setattr(photo, "FORMATS", ("JPEG", "PNG", "GIF", "BMP", "WEBP"))
    text = reason(ENCODINGS["avif"][0])
    assert "WEBP, got AVIF; " in text and 'pip install --upgrade "pillow>=' in text


@pytest.mark.parametrize(("version", "works"), [("1.8.0", False), ("1.8.1", True), ("2.0", True)])
def test_heic_is_read_where_a_safe_pillow_heif_is_installed(monkeypatch, version, works):
    class Plugin(photo.PngImagePlugin.PngImageFile):
        def __init__(self, source, name):
            super().__init__(io.BytesIO(ENCODINGS["png"][0]), name)

    module = types.ModuleType("pillow_heif")
    module.HeifImageFile = Plugin
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    heic = FTYP + b"heic\0\0\0\0mif1heic"
    if works:
        assert_colours(load_photo(heic, 40), COLOURS, 0)
    else:
        assert "got HEIC" in reason(heic)


@pytest.mark.parametrize("name", ENCODINGS)
def test_truncated_or_header_alone(name):
    data = ENCODINGS[name][0]
    if name.split()[-1] not in ("animated", "pages", "mpo") or name == "avif animated":
        assert reason(data[: len(data) * 2 // 3]).startswith(("truncated", "damaged: "))
    for length in (1, 4, 16, 20, 26, 30):
        assert reason(data[:length]).startswith(("truncated", "damaged: ", "not an image: "))


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "png", "bmp", "gif"])
def test_a_photo_that_stops_in_the_middle_is_truncated(name):
    image = texture(300, 200)
    options = {"progressive": True} if name.endswith("progressive") else {}
    data = encode(image, name.split()[0].upper(), **options)
    for part in (0.3, 0.6, 0.9):
        assert reason(data[: int(len(data) * part)]) == "truncated"


@pytest.mark.parametrize(
    "make", [png_of_size, jpeg_of_size, gif_of_size, bmp_of_size, webp_of_size]
)
def test_too_many_pixels(make):
    started = time.monotonic()
    huge = reason(make(30000, 30000))
    limit = 200 if make is jpeg_of_size else 89
    if make is webp_of_size:  # Pillow refuses it first
        assert "900000000 pixels" in huge
    else:
        assert huge == f"30000x30000 is more than the limit of {limit} megapixels"
    if make is not jpeg_of_size:  # which is decoded small
        assert reason(make(9999, 9999)) == "9999x9999 is more than the limit of 89 megapixels"
    with pytest.raises(PhotoError, match="9999x9999 is more than the limit of 89 megapixels"):
        open_photo(make(9999, 9999))
    assert time.monotonic() - started < SECONDS


def test_no_warning_for_many_pixels_either(recwarn):
    assert "10000x10000" in reason(png_of_size(10000, 10000))
    assert not list(recwarn)


@pytest.mark.parametrize(
    "data",
    [
        png_of_size(0, 0),
        png_of_size(0, 9),
        jpeg_of_size(0, 0),
        jpeg_of_size(0, 48),
        gif_of_size(0, 0),
        bmp_of_size(0, 0),
        bmp_of_size(-5, 5),
        bmp_of_size(0, -(2**31)),
        png_of_size(2**32 - 1, 1),
        png_of_size(2**32 - 1, 2**32 - 1),
    ],
)
def test_absurd_dimensions(data):
    # Pillow takes a GIF's size from its first frame where the screen is smaller.
    if data[:3] == b"GIF":
        assert load_photo(data, 16).shape == (16, 16, 3)
    else:
        assert reason(data)


def test_lying_headers_end_soon():
    for make in (jpeg_of_size, bmp_of_size, gif_of_size):
        try:
            assert load_photo(make(6000, 5000), 16).shape == (16, 16, 3)
        except PhotoError as error:
            assert str(error)


def test_many_small_parts_do_not_hang():
    comments = b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000
    chunks = png_header(4, 4) + png_chunk(b"prVt", b"") * 500_000
    exif = b"\xff\xd8" + (b"\xff\xe1\x02\x08Exif\0\0" + bytes(512)) * 100_000
    for data in (comments, chunks, exif):
        started = time.monotonic()
        assert reason(data) == "damaged: cut into too many parts"
        assert time.monotonic() - started < SECONDS


def test_a_png_of_common_small_chunks_is_read():
    image = texture(1000, 700)
    rows = np.pad(np.asarray(image).reshape(700, 3000), ((0, 0), (1, 0)))
    data = zlib.compress(rows.tobytes(), 1)
    parts = [png_chunk(b"IDAT", data[i : i + 1024]) for i in range(0, len(data), 1024)]
    png = png_header(1000, 700) + b"".join(parts) + png_chunk(b"IEND", b"")
    np.testing.assert_array_equal(np.asarray(open_photo(png)), np.asarray(image))


def one_scan_per_colour(width: int, height: int, scans: int) -> bytes:
    """A JPEG that is not progressive, black, with a scan for each colour in turn."""

    def part(marker, data):
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    data = b"\xff\xd8" + part(0xDB, bytes([0] + [1] * 64))
    colours = b"".join(bytes([n, 0x11, 0]) for n in (1, 2, 3))
    data += part(0xC0, struct.pack(">BHHB", 8, height, width, 3) + colours)
    data += b"".join(part(0xC4, bytes([kind, 1, *[0] * 16])) for kind in (0, 0x10))
    scan = [part(0xDA, bytes([1, n, 0, 0, 63, 0])) + bytes(2) for n in (1, 2, 3)]
    return data + b"".join(scan[n % 3] for n in range(scans)) + b"\xff\xd9"


def test_scans_are_counted_in_any_jpeg():
    assert load_photo(one_scan_per_colour(100, 100, 3), 8).shape == (8, 8, 3)
    assert reason(one_scan_per_colour(9000, 9000, 1000)).startswith("damaged: 1000 scans")
    assert reason(one_scan_per_colour(14_100, 14_100, 3)).startswith("14100x14100 takes 1,16")


def test_pictures_within_or_behind_a_jpeg_are_no_scans_of_it(monkeypatch):
    monkeypatch.setattr(photo, "MAX_SCANNED_PIXELS", 64 * 48)
    small = encode(quarters(), "JPEG")
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(small) + 8) + b"Exif\0\0" + small
    for data in (small + small, small[:2] + thumbnail + small[2:]):
        assert_colours(load_photo(data, 40), COLOURS, 12)
        with_more = encode(quarters(), "JPEG", progressive=True)
        assert reason(with_more).startswith("damaged: 10 scans")


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(1024) + runs


def test_a_run_length_bmp_of_a_photo_is_read_and_a_bomb_is_refused():
    runs = (b"".join(b"\1%c" % (n % 256) for n in range(640)) + b"\0\0") * 480
    assert load_photo(rle_bmp(640, 480, runs), 8).shape == (8, 8, 3)
    bomb = rle_bmp(29_800_000, 3, b"\1\0\0\0" * 3)
    assert reason(bomb) == "29800000x3 is more than the limit of 16 megapixels"
    endless = rle_bmp(4000, 4000, b"\0\2\0\0" * 2_000_000)
    started = time.monotonic()
    assert reason(endless) == "damaged: cut into too many parts"
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("size", [(1, 80_000_000), (80_000_000, 1)])
def test_a_side_of_millions_of_pixels_is_refused(size):
    assert "takes 1,831 MiB to decode" in reason(png_of_size(*size))


def tiff(width: int, height: int, tags: list) -> bytes:
    """A TIFF compressed with deflate, and tags of (number, kind, count, value)."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 8), (262, 3, 1, 1), *tags]
    body = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(4)


def test_a_tiff_that_would_take_much_memory_is_refused():
    assert "takes 7,629 MiB" in reason(tiff(9, 9, [(322, 4, 1, 50_000), (323, 4, 1, 20_000)]))
    assert "takes 1,236 MiB" in reason(tiff(9000, 9000, [(273, 4, 1, 8)]))
    assert "damaged: a tag of 9,000,000 numbers" in reason(tiff(9, 9, [(282, 5, 9_000_000, 0)]))


def test_exif_of_millions_of_numbers_in_a_tiff_is_not_read():
    count, pixels = 500_000, zlib.compress(bytes(81)).ljust(16, b"\0")
    tags = [(258, 3, 1, 8), (273, 4, 1, 134), (278, 4, 1, 9), (279, 4, 1, 16), (0x8769, 4, 1, 150)]
    exif = struct.pack("<HHHII", 1, 0x829A, 5, count, 168) + bytes(4) + b"\1\0\0\0" * 2 * count
    data = tiff(9, 9, [*tags, (277, 3, 1, 1)]) + pixels + exif
    started = time.process_time()
    assert load_photo(data, 8).shape == (8, 8, 3)
    assert time.process_time() - started < 1  # 4 s if Pillow reads them


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_a_photo_keeps_its_pixels_alone(kind):
    options = {"exif": Image.Exif()} if kind == "JPEG" else {}
    image = open_photo(encode(quarters(), kind, comment=b"from home", **options))
    assert b"home" not in encode(image, "JPEG") and image.info == {}


def test_a_photo_is_opened_at_a_side_of_at_most_so_many_pixels():
    for kind in ("JPEG", "PNG"):
        data = encode(texture(900, 400), kind)
        assert open_photo(data, 300).size == (300, 133)
        assert open_photo(data, 1000).size == (900, 400)
    assert open_photo(encode(Image.new("RGB", (70_000, 2)), "PNG"), 300).size == (300, 1)


def test_a_progressive_jpeg_of_endless_scans():
    data = encode(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert load_photo(data, 16).shape == (16, 16, 3)
    assert reason(data[:-2] + scan * 10_000).startswith("damaged: 100")


def test_too_many_bytes(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(quarters(), "PNG"))
    monkeypatch.setattr(photo, "MAX_BYTES", 100)
    assert reason(path).startswith("larger than the limit of")
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**40)
    assert reason(tmp_path / "sparse.jpg").startswith("larger than the limit of")


def test_what_is_no_regular_file(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.jpg")
    for device in ("zero", "null", "random", "tty"):
        (tmp_path / f"{device}.jpg").symlink_to(f"/dev/{device}")
    monkeypatch.chdir(tmp_path)  # the path of a socket is limited to about 100 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        for name in os.listdir(tmp_path):  # a socket and a missing terminal cannot be opened
            assert reason(tmp_path / name) in ("not a regular file", "no such device or address")
    assert reason(tmp_path) == "a folder"


def test_links(tmp_path):
    (tmp_path / "photo.png").write_bytes(ENCODINGS["png"][0])
    (tmp_path / "good.png").symlink_to("photo.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert load_photo(tmp_path / "good.png", 8).shape == (8, 8, 3)
    assert reason(tmp_path / "broken.png") == "a broken link"
    assert reason(tmp_path / "loop.png") == "too many levels of symbolic links"


@pytest.mark.parametrize("path", ["https://a.b/cat.jpg", Path("HTTP://a/b?c=1")])
def test_an_address_is_told_from_a_path(path):
    assert reason(path) == "addresses are not read: download the photo"


@pytest.mark.parametrize(
    "path, expected",
    [
        ("missing.jpg", "not found"),
        ("", "not found"),
        ("a\0b.jpg", "not a possible file name"),
        ("\ud800.jpg", "not a possible file name"),
        ("x" * 300 + ".jpg", "file name too long"),
    ],
)
def test_paths_that_lead_nowhere(path, expected):
    assert reason(path) == expected


@pytest.mark.parametrize(
    "code, expected", [(errno.EACCES, "permission denied"), (errno.EIO, "input/output error")]
)
def test_no_permission(tmp_path, monkeypatch, code, expected):
    (tmp_path / "photo.png").write_bytes(ENCODINGS["png"][0])

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    assert reason(tmp_path / "photo.png") == expected
    assert reason(tmp_path) == ("permission denied" if code == errno.EACCES else "a folder")


def test_no_memory(monkeypatch):
    def refuse(self):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", refuse)
    assert reason(ENCODINGS["gif"][0]) == "needs more memory than there is"


def test_any_exception_of_a_decoder_is_a_photo_error(monkeypatch):
    raised = [SyntaxError, struct.error, EOFError, OverflowError, zlib.error, AttributeError]
    for kind in [*raised, KeyError, AssertionError, RecursionError, Image.DecompressionBombError]:

        def fail(self, kind=kind):
            raise kind

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "draft", fail)
            patch.setattr(Image.Image, "load", fail)
            assert reason(ENCODINGS["gif"][0])


def test_nothing_on_stderr_and_no_setting_of_pillow_changed():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\0" * 9
    png = ENCODINGS["png"][0]
    odd_animation = png[:33] + png_chunk(b"acTL", bytes(8)) + png[33:]
    code = (
        "import sys; from PIL import Image, ImageFile; from catdog.photos import photo as photos\n"
        f"photos.load_photo({odd_animation!r}, 8)\n"
        f"photos.load_photo({encode(quarters(), 'JPEG', exif=exif)!r}, 8)\n"
        f"photos.load_photo({ENCODINGS['png cut out'][0]!r}, 8)\n"
        "try: photos.load_photo(" + repr(png_of_size(10000, 10000)) + ", 8)\n"
        "except photos.PhotoError: print('refused')\n"
        "print(Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "print(len(heavy))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.split() == ["refused", "89478485", "False", "0"]


# Many threads


def test_many_threads_read_the_same():
    expected = {name: load_photo(data, 24) for name, (data, _, _) in ENCODINGS.items()}

    def check(name):
        np.testing.assert_array_equal(load_photo(ENCODINGS[name][0], 24), expected[name])
        reason(ENCODINGS[name][0][:30])

    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(check, list(ENCODINGS) * 8))) == 8 * len(ENCODINGS)


# Folders


def test_find_files(tmp_path):
    names = ["b.jpg", "a.PNG", "Z.JpEg", "sub/c.gif", "sub/deep/d.webp", "sub.jpg/e.bmp", "ü.jpg"]
    names += ["sub/f.avif", "sub/g.HEIC", "sub/h.heif"]
    other = [
        "@eaDir/a.jpg",
        "sub/__MACOSX/b.jpg",
        "README",
        "notes.txt",
        "._b.jpg",
        ".DS_Store",
        ".hidden/f.jpg",
        "Thumbs.db",
        "jpg",
        "a.jpg.txt",
    ]
    for name in names + other:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [os.path.relpath(path, tmp_path) for path in find_files(tmp_path)]
    expected = ["Z.JpEg", "a.PNG", "b.jpg", "ü.jpg"]
    expected += [
        "sub/c.gif",
        "sub/f.avif",
        "sub/g.HEIC",
        "sub/h.heif",
        "sub/deep/d.webp",
        "sub.jpg/e.bmp",
    ]
    assert found == [os.path.normpath(name) for name in expected]
    assert list(find_files(str(tmp_path))) == [str(tmp_path / name) for name in found]


def test_files_without_an_ending_are_known_by_their_first_bytes(tmp_path):
    for name in ("a", "b.jpg_large", "c.1", "d.txt"):
        (tmp_path / name).write_bytes(ENCODINGS["jpeg"][0])
    (tmp_path / "e").write_text("no picture")
    os.mkfifo(tmp_path / "f")
    assert [os.path.basename(path) for path in find_files(tmp_path)] == ["a", "b.jpg_large", "c.1"]


def test_find_files_follows_links_once(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    (tmp_path / "photos/again").symlink_to(tmp_path)
    (tmp_path / "photos/self").symlink_to("self")
    (tmp_path / "photos/broken.jpg").symlink_to("nowhere")
    (tmp_path / "photos/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "photos/linked.jpg").symlink_to("a.jpg")
    (tmp_path / "twin").symlink_to("photos")
    found = [os.path.relpath(path, tmp_path) for path in find_files(tmp_path)]
    names = ["a.jpg", "broken.jpg", "linked.jpg", "loop.jpg"]
    assert found == [os.path.join("photos", name) for name in names]


def test_find_files_names_what_cannot_be_listed(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open/a.jpg").touch()
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list everything
    assert list(find_files(tmp_path)) == [str(tmp_path / "closed"), str(tmp_path / "open/a.jpg")]
    assert list(find_files(tmp_path / "missing")) == [str(tmp_path / "missing")]
    assert list(find_files(tmp_path / "open/a.jpg")) == [str(tmp_path / "open/a.jpg")]


def test_names_in_any_bytes(tmp_path):
    name = b"c\xe4t \n\t\x1b[31m \xf0\x9f\x90\xb1.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(ENCODINGS["jpeg"][0])
    (path,) = find_files(tmp_path)
    assert load_photo(path, 8).shape == (8, 8, 3)
    assert printable(os.path.basename(path)) == "c\\xe4t \\n\\t\\x1b[31m 🐱.jpg"


# Broken on purpose


@st.composite
def broken_files(draw) -> bytes:
    """A real encoding, cut, spliced with another, or with bytes flipped, inserted, repeated."""
    data = bytearray(ENCODINGS[draw(st.sampled_from(sorted(ENCODINGS)))][0])
    for _ in range(draw(st.integers(1, 4))):
        # Headers are short and full of meaning: half of the damage is done there.
        place = draw(st.integers(0, min(len(data), 64)) | st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "overwrite", "insert", "remove", "cut", "splice"])):
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                new = draw(st.binary(min_size=1, max_size=8) | st.sampled_from(EXTREMES))
                data[place : place + len(new)] = new
            case "insert":
                data[place:place] = draw(st.binary(max_size=40)) * draw(st.integers(1, 50))
            case "remove":
                del data[place : place + draw(st.integers(1, 40))]
            case "cut":
                del data[place:]
            case "splice":
                other = ENCODINGS[draw(st.sampled_from(sorted(ENCODINGS)))][0]
                data[place:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


def check_outcome(data: bytes, draft_size: int):
    """An array of the right kind or PhotoError, nothing else, in time."""
    started = time.monotonic()
    try:
        array = load_photo(data, draft_size)
        assert array.shape == (draft_size, draft_size, 3) and array.dtype == np.uint8
    except PhotoError as error:
        assert str(error) and str(error).isprintable()
    assert time.monotonic() - started < SECONDS


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(broken_files(), st.sampled_from([1, 8, 33]))
@example(b"\xff\xd8\xff", 8)
@example(b"RIFF\0\0\0\0WEBPVP8X", 8)
@example(b"BM", 8)
def test_broken_files(data, size):
    check_outcome(data, size)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", FTYP + b"avif", b""]),
    st.binary(),
)
def test_any_bytes(start, rest):
    check_outcome(start + rest, 8)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(broken_files(), st.sampled_from([1, 8, 33]))
def test_thousands_of_broken_files(data, size):
    check_outcome(data, size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODINGS)
def test_every_cut_and_every_byte(name):
    data = ENCODINGS[name][0]
    for place in range(len(data)):
        check_outcome(data[:place], 8)
        for value in (0, 255, data[place] ^ 1, data[place] ^ 128):
            check_outcome(data[:place] + bytes([value]) + data[place + 1 :], 8)
