"""Fonts for names in any script, and numbers where there is none."""

import types

import pytest
from matplotlib import font_manager

from catdog.scores import fonts

NOWHERE = "𓀀"  # matplotlib's own fonts lack it


@pytest.fixture(autouse=True)
def few_fonts(monkeypatch):
    own = [font for font in font_manager.fontManager.ttflist if "matplotlib" in font.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    fonts.find.cache_clear()
    yield
    fonts.find.cache_clear()


def test_a_font_that_is_installed_is_found_by_the_characters():
    assert fonts.find("قطة Кошка").name == "DejaVu Sans"  # it comes with matplotlib
    assert fonts.find(NOWHERE) is None
    assert fonts.name_or_number("Кошка", 2) == "Кошка"
    assert fonts.name_or_number(NOWHERE, 2) == "2"


def test_files_that_are_no_usable_fonts_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "broken.ttf").write_bytes(b"\0\1\0\0" * 9)
    names = ("broken.ttf", "missing.ttf")
    broken = [types.SimpleNamespace(name="A", style="", fname=tmp_path / name) for name in names]
    others = font_manager.fontManager.ttflist
    monkeypatch.setattr(font_manager.fontManager, "ttflist", broken + others)
    assert fonts.find("Ёлка").name == "DejaVu Sans"
    assert fonts.find(NOWHERE + "1") is None


@pytest.mark.parametrize("text", ["cat 98%", "Кошка ä 98%", NOWHERE])
def test_pillow_draws_any_text(text):
    assert fonts.for_pillow(text, 20).getlength(text) > 0


def test_an_accent_is_no_box_in_a_picture():
    ink = [bytes(fonts.for_pillow(text, 20).getmask(text)) for text in ("ä", "é", NOWHERE)]
    assert len(set(ink)) == 3
