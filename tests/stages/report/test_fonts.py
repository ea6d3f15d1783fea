"""Text of any script on the sample grid: drawn where a font has it, else said by number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from stages.report import fonts
from stages.report.figures import grid

NOWHERE = "\U00010c92"
"""A letter that no common font has (Old Hungarian)."""


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without other fonts."""
    monkeypatch.setattr(fonts, "_installed", tuple)
    fonts._file.cache_clear()
    yield
    fonts._file.cache_clear()


def drawn(line: fonts.Line) -> np.ndarray:
    picture = Image.new("L", (400, 40), 0)
    line.draw(ImageDraw.Draw(picture), (5, 30), "white")
    return np.asarray(picture)


@pytest.mark.parametrize("text", ["a red star", "красная звезда", "κόκκινο αστέρι", "“rouge” …", "a\u0301 b\u00a0c"])
def test_what_dejavu_has_is_drawn_by_it_in_one_part(text: str, only_dejavu: None) -> None:
    made = fonts.line(text, 19)
    assert made is not None and [part for part, _ in made.parts] == [text]


@pytest.mark.parametrize("text", ["赤い星", "붉은 별", "a 🦄 in a field", NOWHERE])
def test_without_a_font_a_prompt_is_said_by_its_number(text: str, only_dejavu: None) -> None:
    assert fonts.line(text, 19) is None
    title = grid._title("3", f"“{text}”", 200)
    assert [part for part, _ in title.parts] == ["prompt 3"]


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow was built without raqm")
@pytest.mark.parametrize("text", ["نجمة حمراء", "כוכב אדום"])
def test_text_from_right_to_left_is_ordered(text: str) -> None:
    """The first letter stands at the right: what is drawn last of the line is what is read first."""
    made = fonts.line(text, 19)
    assert made is not None
    reversed_order = fonts.line("\u202d" + text + "\u202c", 19)  # the same letters, forced from left to right
    assert reversed_order is not None
    assert not np.array_equal(drawn(made), drawn(reversed_order))


@pytest.mark.parametrize("text", ["נ", "ن"])
def test_text_from_right_to_left_needs_raqm(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    assert fonts.line(text, 19) is None
    assert fonts.line("a red star", 19) is not None


def test_a_font_with_the_characters_is_found_among_the_installed_ones(
    monkeypatch: pytest.MonkeyPatch, only_dejavu: None
) -> None:
    other = fonts._dejavu(True)  # any scalable font, said to have what DejaVu has not
    monkeypatch.setattr(fonts, "_installed", lambda: ("/no/such/font.ttf", other))
    usual = fonts._characters
    monkeypatch.setattr(fonts, "_characters", lambda file: frozenset({ord("赤")}) if file == other else usual(file))
    made = fonts.line("a 赤 star", 19)
    assert made is not None
    assert [(part, font.path) for part, font in made.parts] == [
        ("a ", fonts._dejavu(False)),
        ("赤", other),
        (" star", fonts._dejavu(False)),
    ]


def test_a_line_is_cut_to_its_room() -> None:
    made = fonts.line("a red star on a dark striped background", 19, 120)
    assert made is not None and made.width <= 120
    assert made.parts[-1][0].endswith("…")


def test_fonts_of_boxes_are_not_taken() -> None:
    """Matplotlib comes with a font that has a box for every character."""
    from matplotlib.font_manager import fontManager

    names = {font.fname: font.name for font in fontManager.ttflist}
    assert any(name.startswith("Last Resort") for name in names.values())
    assert not any(names[file].startswith("Last Resort") for file in fonts._installed())


def test_captions_never_fail(only_dejavu: None) -> None:
    assert "".join(part for part, _ in fonts.plain(f"a{NOWHERE}b", 17).parts) == "a?b"
    assert fonts._characters("/no/such/font.ttf") == frozenset()
