"""Fonts for names in any script, among those that are installed."""

import functools

from PIL import ImageFont

from catdog import backend


@functools.cache
def find(text: str):
    """Return the font that has all characters of a text, with its `name` and file `fname`, or None.

    None without matplotlib, too, which lists the fonts: two seconds the first time, then 0.3.
    """
    try:
        backend.import_matplotlib()
        from matplotlib.font_manager import fontManager
    except ModuleNotFoundError:
        return None
    needed = {ord(character) for character in text if not character.isspace()}
    # The font that comes with matplotlib is the same on all machines.
    order = sorted(fontManager.ttflist, key=lambda font: (font.name != "DejaVu Sans", font.style))
    return next((font for font in order if needed <= _characters(font.fname)), None)


@functools.cache
def _characters(path):
    """Return the numbers of the characters in the file of a font; none if it cannot be used."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    # Those of pictures have one size; the last resort shows a box for any character.
    usable = font.scalable and "last resort" not in font.family_name.lower()
    return frozenset(font.get_charmap()) if usable else frozenset()


def name_or_number(name: str, number: int) -> str:
    """Return a printable name, or its number if no installed font has its characters."""
    return name if name.isascii() or find(name) else str(number)


def for_pillow(text: str, size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return a font for Pillow, of `size` px, that has all characters of a text if one does."""
    font = None if text.isascii() else find(text)  # Pillow's own has ASCII alone
    return ImageFont.truetype(font.fname, size) if font else ImageFont.load_default(size)
