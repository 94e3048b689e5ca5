"""Photos made for the tests: every format and mode, with the colours that they must have."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 180, 0), (0, 0, 220), (255, 255, 255)


def quarters(size=(64, 48)) -> Image.Image:
    """Red and green above, blue and white below: no two sides of it look alike."""
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, WHITE])
    return image.resize(size, Image.Resampling.NEAREST)


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def save(path: Path, colour: tuple | None = None, size: int = 8) -> Path:
    """Write a small picture of one colour, by default one that depends on the path alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = colour or tuple(np.random.default_rng(list(str(path).encode())).integers(0, 256, 3))
    Image.new("RGB", (size, size), tuple(map(int, colour))).save(path)
    return path


def fill(root: Path, *folders: str, photos: int = 1) -> None:
    """Write pictures 0.png, 1.png ... into folders below `root`."""
    for folder in folders:
        for n in range(photos):
            save(root / folder / f"{n}.png")


def cats_and_dogs(root: Path) -> Path:
    """Write 60 pictures of each class as train/cat.0.png, train/dog.0.png ...; return `root`."""
    for n in range(60):
        for c in ("cat", "dog"):
            save(root / f"train/{c}.{n}.png")
    return root


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


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


SMALL = (16, 12)  # px
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
    # BMP does not compress, and a test changes every byte.
    small = {mode: each.resize(SMALL, Image.Resampling.NEAREST) for mode, each in {
        "RGB": image, "RGBA": alpha, "L": grey, "1": black_white()}.items()}  # fmt: skip
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
        "bmp": (encode(small["RGB"], "BMP"), COLOURS, 0),
        "bmp grey": (encode(small["L"], "BMP"), GREYS, 1),
        "bmp 1 bit": (encode(small["1"], "BMP"), BLACK_WHITE, 0),
        "bmp palette": (encode(small["RGB"].convert("P"), "BMP"), COLOURS, 30),
        "bmp 32 bit": (encode(small["RGBA"], "BMP"), COLOURS, 0),  # the fourth byte means nothing
        "bmp alpha": (bmp_with_alpha(small["RGBA"]), ON_WHITE, 1),
        "webp": (encode(image, "WEBP"), COLOURS, 12),
        "webp lossless": (encode(image, "WEBP", lossless=True), COLOURS, 0),
        "webp alpha": (encode(alpha, "WEBP", lossless=True, exact=True), ON_WHITE, 1),
        "avif": (encode(image, "AVIF"), COLOURS, 12),
        "avif grey": (encode(grey, "AVIF"), GREYS, 4),
        "avif alpha": (encode(alpha, "AVIF"), ON_WHITE, 12),
        "avif animated": (encode(image, "AVIF", **frames()), COLOURS, 12),
        "webp animated": (encode(image, "WEBP", lossless=True, **frames()), COLOURS, 0),
        "bmp rle": (bmp_rle(small["RGB"]), COLOURS, 0),
        "tiff": (encode(small["RGB"], "TIFF"), COLOURS, 0),
        "tiff lzw": (encode(image, "TIFF", compression="tiff_lzw"), COLOURS, 0),
        "tiff deflate": (encode(image, "TIFF", compression="tiff_adobe_deflate"), COLOURS, 0),
        "tiff jpeg": (encode(image, "TIFF", compression="jpeg"), COLOURS, 12),
        "tiff fax": (encode(black_white(), "TIFF", compression="group4"), BLACK_WHITE, 0),
        "tiff 16 bit": (encode(grey16(), "TIFF"), [(v,) * 3 for v in (0, 100, 200, 255)], 0),
        "tiff alpha": (encode(alpha, "TIFF", compression="tiff_lzw"), ON_WHITE, 1),
        "tiff cmyk": (encode(small["RGB"].convert("CMYK"), "TIFF"), COLOURS, 1),
        "tiff pages": (encode(image, "TIFF", compression="tiff_lzw", **frames()), COLOURS, 0),
        "ppm": (encode(small["RGB"], "PPM"), COLOURS, 0),
        "ppm grey": (encode(small["L"], "PPM"), GREYS, 1),
        "ppm 1 bit": (encode(small["1"], "PPM"), BLACK_WHITE, 0),
        "ppm 10 bit": (b"P5 16 12 1020\n" + np.asarray(
            small["L"], ">u2").__mul__(4).astype(">u2").tobytes(), GREYS, 1),
    }  # fmt: skip


def bmp_with_alpha(image: Image.Image) -> bytes:
    """With masks for four channels, which Pillow does not write itself."""
    pixels = image.tobytes("raw", "BGRA", 0, -1)
    header = struct.pack("<IiiHHI", 108, *image.size, 1, 32, 3) + bytes(20)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header += bytes(108 - len(header))
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


def bmp_rle(image: Image.Image) -> bytes:
    """With eight bits per pixel in runs, which Pillow does not write itself."""
    image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    rows = [row.tobytes() for row in np.asarray(image)[::-1]]
    runs = b"".join(b"".join(b"\1%c" % value for value in row) + b"\0\0" for row in rows) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, *image.size, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = np.array(image.getpalette("BGRX"), np.uint8).tobytes().ljust(1024, b"\0")
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs


def interlaced_png() -> bytes:
    """Red, 8x8, in the seven passes of Adam7, which Pillow does not write itself."""
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    pixels = b"".join((b"\0" + b"\xff\0\0" * width) * height for width, height in passes)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


ENCODINGS = encodings()

# What does the most harm in a header.
EXTREMES = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\x80\0"]
