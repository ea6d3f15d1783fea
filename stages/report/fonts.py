"""Text of any script on pictures: DejaVu Sans, and for characters that it lacks whatever installed font has them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from PIL import ImageDraw, ImageFont, features
from PIL.ImageFont import FreeTypeFont

ELLIPSIS = "…"
STAND_INS = ("Last Resort", "LastResort", "Adobe Blank")
"""Fonts that have a box, or nothing, for every character there is."""


@dataclass(frozen=True)
class Line:
    """A text in parts of one font each, from left to right."""

    parts: tuple[tuple[str, FreeTypeFont], ...]

    @property
    def width(self) -> float:
        """Pixels."""
        return sum(font.getlength(text) for text, font in self.parts)

    def draw(self, draw: ImageDraw.ImageDraw, spot: tuple[float, float], colour: str) -> None:
        """Write the line, its left end on the baseline at `spot` (x, y)."""
        x, y = spot
        for text, font in self.parts:
            draw.text((x, y), text, colour, font, anchor="ls")
            x += font.getlength(text)


def line(text: str, size: int, width: float = float("inf"), bold: bool = False) -> Line | None:
    """The text in `size` pixels, cut with an ellipsis to `width` pixels.

    None where some character stands in no installed font, or the text runs from right to left and Pillow was built
    without the library that orders and joins such letters (raqm).
    """
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in text) and not features.check("raqm"):
        return None
    if not all(_file(character, bold) for character in text):
        return None
    made = Line(tuple(_parts(text, size, bold)))
    while text and made.width > width:
        text = text[:-1]
        made = Line(tuple(_parts(text.rstrip() + ELLIPSIS, size, bold)))
    return made


def plain(text: str, size: int, width: float = float("inf"), bold: bool = False) -> Line:
    """As `line`, with `?` for every character that no installed font has."""
    known = "".join(character if _file(character, bold) else "?" for character in text)
    return line(known, size, width, bold) or Line(tuple(_parts(ELLIPSIS, size, bold)))


def _parts(text: str, size: int, bold: bool) -> Iterator[tuple[str, FreeTypeFont]]:
    for file, characters in groupby(text, lambda character: _file(character, bold)):
        assert file is not None
        yield "".join(characters), _font(file, size)


@cache
def _file(character: str, bold: bool) -> str | None:
    """The font file for a character; marks and blanks, which have no shape of their own, are set in DejaVu."""
    own = _dejavu(bold)
    if unicodedata.category(character).startswith(("Z", "M", "Cc", "Cf")) or ord(character) in _characters(own):
        return own
    return next((file for file in _installed() if ord(character) in _characters(file) and _scales(file)), None)


@cache
def _dejavu(bold: bool) -> str:
    """The sans serif font that comes with matplotlib."""
    from matplotlib.font_manager import FontProperties, findfont

    return str(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")))


@cache
def _installed() -> tuple[str, ...]:
    """Font files that matplotlib finds on this machine, upright ones of normal weight first, then by name."""
    from matplotlib.font_manager import fontManager

    usual = ("normal", "400")
    known = [font for font in fontManager.ttflist if not font.name.startswith(STAND_INS)]
    ordered = sorted(known, key=lambda font: (font.style != "normal", str(font.weight) not in usual, font.name))
    return tuple(dict.fromkeys(str(found.fname) for found in ordered))


@cache
def _characters(file: str) -> frozenset[int]:
    """Code points that a font has shapes for; none where the file cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _scales(file: str) -> bool:
    """Whether a font can be drawn in any size: fonts of coloured pictures come in one."""
    try:
        return bool(_font(file, 20).getlength("m") >= 0)
    except OSError:
        return False


@cache
def _font(file: str, size: int) -> FreeTypeFont:
    return ImageFont.truetype(file, size)
