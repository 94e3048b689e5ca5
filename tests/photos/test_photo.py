"""Photos made here, whole and broken, and what photos.py makes of them."""

import errno
import io
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from catdog.photos import photo as photos
from catdog.photos.photo import PhotoError, find_files, load_photo, open_photo, printable

# pytest puts its own warning filters in the place of the one that photos.py sets when imported.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")

RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 180, 0), (0, 0, 220), (255, 255, 255)
ORIENTATION = 0x0112
SECONDS = 10  # for a photo that takes a few ms: only what hangs, or nearly does, takes so long


def quarters(size=(64, 48)) -> Image.Image:
    """Red and green above, blue and white below: no two sides of it look alike."""
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, WHITE])
    return image.resize(size, Image.Resampling.NEAREST)


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


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


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


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


# Every format and mode, with the expected colours


def with_alpha() -> Image.Image:
    """`quarters`, opaque, half transparent, fully transparent, opaque."""
    image = quarters().convert("RGBA")
    alpha = Image.new("L", (2, 2))
    alpha.putdata([255, 128, 0, 255])
    image.putalpha(alpha.resize(image.size, Image.Resampling.NEAREST))
    return image


def cut_out() -> Image.Image:
    """`quarters` with a palette in which blue is transparent."""
    image = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    image.info["transparency"] = image.getpixel((0, 47))
    return image


def frames() -> dict:
    return {"save_all": True, "append_images": [Image.new("RGB", (64, 48), "black")] * 3}


COLOURS = [RED, GREEN, BLUE, WHITE]
GREYS = [(round(np.dot(colour, (0.299, 0.587, 0.114))),) * 3 for colour in COLOURS]
ON_WHITE = [RED, (127, 217, 127), WHITE, WHITE]
GREY_ON_WHITE = [GREYS[0], (180, 180, 180), WHITE, WHITE]
BLACK_WHITE = [(0, 0, 0), (255, 255, 255), (0, 0, 0), (255, 255, 255)]


def black_white() -> Image.Image:
    image = Image.new("L", (2, 1))
    image.putdata([0, 255])
    return image.resize((64, 48), Image.Resampling.NEAREST).convert("1")


def grey16() -> Image.Image:
    rows = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    return Image.fromarray(rows.repeat(24, 0).repeat(32, 1))


def encodings() -> dict[str, tuple[bytes, list, int]]:
    """name: (bytes, expected colours, how far off a lossy format may be)."""
    image, alpha, grey = quarters(), with_alpha(), quarters().convert("L")
    return {
        "jpeg": (encode(image, "JPEG"), COLOURS, 12),
        "jpeg progressive": (encode(image, "JPEG", progressive=True), COLOURS, 12),
        "jpeg grey": (encode(grey, "JPEG"), GREYS, 3),
        "jpeg cmyk": (encode(image.convert("CMYK"), "JPEG"), COLOURS, 12),
        "jpeg mpo": (encode(image, "MPO", **frames()), COLOURS, 12),
        "png": (encode(image, "PNG"), COLOURS, 0),
        "png interlaced": (interlaced_png(), [(255, 0, 0)] * 4, 0),
        "png grey": (encode(grey, "PNG"), GREYS, 1),
        "png 1 bit": (encode(black_white(), "PNG"), BLACK_WHITE, 0),
        "png 16 bit": (encode(grey16(), "PNG"), [(v,) * 3 for v in (0, 100, 200, 255)], 0),
        "png palette": (encode(image.convert("P"), "PNG"), COLOURS, 30),
        "png cut out": (encode(cut_out(), "PNG"), [RED, GREEN, WHITE, WHITE], 0),
        "png rgb key": (encode(image, "PNG", transparency=BLUE), [RED, GREEN, WHITE, WHITE], 0),
        "png alpha": (encode(alpha, "PNG"), ON_WHITE, 1),
        "png grey alpha": (encode(alpha.convert("LA"), "PNG"), GREY_ON_WHITE, 1),
        "png animated": (encode(image, "PNG", **frames()), COLOURS, 0),
        "gif": (encode(image, "GIF"), COLOURS, 0),
        "gif cut out": (encode(cut_out(), "GIF"), [RED, GREEN, WHITE, WHITE], 0),
        "gif animated": (encode(image, "GIF", **frames()), COLOURS, 0),
        "bmp": (encode(image, "BMP"), COLOURS, 0),
        "bmp grey": (encode(grey, "BMP"), GREYS, 1),
        "bmp 1 bit": (encode(black_white(), "BMP"), BLACK_WHITE, 0),
        "bmp palette": (encode(image.convert("P"), "BMP"), COLOURS, 30),
        "bmp 32 bit": (encode(alpha, "BMP"), COLOURS, 0),  # the fourth byte means nothing
        "bmp alpha": (bmp_with_alpha(alpha), ON_WHITE, 1),
        "webp": (encode(image, "WEBP"), COLOURS, 12),
        "webp lossless": (encode(image, "WEBP", lossless=True), COLOURS, 0),
        "webp alpha": (encode(alpha, "WEBP", lossless=True, exact=True), ON_WHITE, 1),
        "webp animated": (encode(image, "WEBP", lossless=True, **frames()), COLOURS, 0),
    }


def bmp_with_alpha(image: Image.Image) -> bytes:
    """With masks for four channels, which Pillow does not write itself."""
    pixels = image.tobytes("raw", "BGRA", 0, -1)
    header = struct.pack("<IiiHHI", 108, *image.size, 1, 32, 3) + bytes(20)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header += bytes(108 - len(header))
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


def interlaced_png() -> bytes:
    """Red, 8x8, in the seven passes of Adam7, which Pillow does not write itself."""
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    pixels = b"".join((b"\0" + b"\xff\0\0" * width) * height for width, height in passes)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


ENCODINGS = encodings()


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
    assert image.size == ((8, 8) if name == "png interlaced" else (64, 48))


def test_the_photos_cover_every_format():
    assert {name.split()[0].upper() for name in ENCODINGS} == set(photos.FORMATS)


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
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(format, orientation, expected):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(quarters((640, 480)), format, exif=exif)
    assert_colours(load_photo(data, 40), expected, 12)
    turned = orientation in (5, 6, 7, 8)
    assert open_photo(data).size == ((480, 640) if turned else (640, 480))
    draft = open_photo(data, draft_size=40)
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
    full, draft = open_photo(data), open_photo(data, draft_size)
    assert full.size == size
    assert min(draft.size) >= min(1.5 * draft_size, *size)
    assert draft.width / draft.height == pytest.approx(size[0] / size[1], rel=0.01)
    square = full.resize((draft_size, draft_size), Image.Resampling.BILINEAR)
    difference = np.abs(load_photo(data, draft_size).astype(int) - np.asarray(square, int))
    assert difference.mean() < 2.5  # of 255, on noise; photos differ by a third of that


def test_a_big_jpeg_is_decoded_small():
    data = encode(quarters((1600, 1200)), "JPEG")
    assert open_photo(data, draft_size=64).size == (200, 150)
    assert open_photo(data, draft_size=160).size == (400, 300)
    assert open_photo(data, draft_size=400).size == (800, 600)
    assert open_photo(data, draft_size=401).size == (1600, 1200)


# Bad input, each with its reason


def test_empty(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "is empty"
    assert reason(b"") == "is empty"


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"\0",
        b"\n" * 5000,
        b"%PDF-1.7",
        encode(quarters(), "TIFF"),
        encode(quarters(), "ICO"),
        encode(quarters(), "PPM"),
        encode(quarters(), "TGA"),
        encode(quarters(), "AVIF"),
        encode(quarters(), "EPS"),
    ],
)
def test_other_files_named_jpg(data, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    text = reason(path)
    assert text.startswith("not an image: expected JPEG, PNG, GIF, BMP, WEBP, but it begins with")
    assert repr(data[:16]) in text


@pytest.mark.parametrize("name", ENCODINGS)
def test_truncated_or_header_alone(name):
    data = ENCODINGS[name][0]
    if name not in ("gif animated", "png animated", "webp animated", "jpeg mpo"):
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
    assert huge.removeprefix("30000x30000 is ") == "more than the limit of 89 megapixels"
    assert huge.startswith("30000x30000") or make is webp_of_size  # Pillow refuses it first
    assert reason(make(9999, 9999)) == "9999x9999 is more than the limit of 89 megapixels"
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


def test_a_progressive_jpeg_of_endless_scans():
    data = encode(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert load_photo(data, 16).shape == (16, 16, 3)
    assert reason(data[:-2] + scan * 10_000).startswith("damaged: 100")


def test_too_many_bytes(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(quarters(), "PNG"))
    monkeypatch.setattr(photos, "MAX_BYTES", 100)
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
        for name in os.listdir(tmp_path):
            assert reason(tmp_path / name) == "not a regular file"
    assert reason(tmp_path) == "a folder"


def test_links(tmp_path):
    (tmp_path / "photo.png").write_bytes(ENCODINGS["png"][0])
    (tmp_path / "good.png").symlink_to("photo.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert load_photo(tmp_path / "good.png", 8).shape == (8, 8, 3)
    assert reason(tmp_path / "broken.png") == "a broken link"
    assert reason(tmp_path / "loop.png") == "a link that leads back to itself"


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
    code = (
        "import sys, photos; from PIL import Image, ImageFile\n"
        f"photos.load_photo({encode(quarters(), 'JPEG', exif=exif)!r}, 8)\n"
        f"photos.load_photo({ENCODINGS['png cut out'][0]!r}, 8)\n"
        "try: photos.load_photo(" + repr(png_of_size(10000, 10000)) + ", 8)\n"
        "except photos.PhotoError: print('refused')\n"
        "print(Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "print(len(heavy))\n"
    )
    command = [sys.executable, "-c", code]
    here = os.path.dirname(photos.__file__)
    done = subprocess.run(command, capture_output=True, text=True, cwd=here)
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
    other = ["notes.txt", "._b.jpg", ".DS_Store", ".hidden/f.jpg", "Thumbs.db", "jpg", "a.jpg.txt"]
    for name in names + other:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [os.path.relpath(path, tmp_path) for path in find_files(tmp_path)]
    expected = ["Z.JpEg", "a.PNG", "b.jpg", "ü.jpg"]
    expected += ["sub/c.gif", "sub/deep/d.webp", "sub.jpg/e.bmp"]
    assert found == [os.path.normpath(name) for name in expected]
    assert list(find_files(str(tmp_path))) == [str(tmp_path / name) for name in found]


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
            raise PermissionError(errno.EACCES, "Permission denied")
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


# Printed paths


@pytest.mark.parametrize(
    "path, expected",
    [
        ("tmp/a cat's photo.jpg", "tmp/a cat's photo.jpg"),
        ("Ünï\u3000猫\u202f🐱\\x", "Ünï\u3000猫\u202f🐱\\x"),
        ("a\tb\nc\rd\0\x7f\x85", "a\\tb\\nc\\rd\\x00\\x7f\\x85"),
        ("a\u2028b\u202egpj", "a\\u2028b\\u202egpj"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\ud800", "\\ud800"),
        (b"a\xff", "a\\xff"),
    ],
)
def test_printable(path, expected):
    assert printable(path) == expected


@given(st.one_of(st.text(st.characters()), st.binary()))
def test_printable_is_one_line_of_text(path):
    text = printable(path)
    text.encode("utf-8")
    assert len(text.splitlines()) <= 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)


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


EXTREMES = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\x80\0"]


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
@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b""]), st.binary())
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
