"""Packages of emoji in the published layout, small: flat drawings with transparency, 64x64."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TONES = {"1F3FB": (247, 214, 190), "1F3FD": (190, 140, 100), "1F3FF": (90, 60, 45)}
YELLOW = (255, 204, 77)
PEOPLE, FOOD = "People & Body", "Food & Drink"
ROLE, HAND, FAMILY = (PEOPLE, "person-role"), (PEOPLE, "hand-fingers-open"), (PEOPLE, "family")
FRUIT, TOOL = (FOOD, "food-fruit"), ("Objects", "tool")


def write(root: Path, vendors: Sequence[str] = ("google", "twitter")) -> Path:
    """Packages with three pilots, a hand with tones, a couple with two tones, a pear and a hammer; returns `root`."""
    for number, vendor in enumerate(vendors):
        package = root / f"emoji-datasource-{vendor}"
        images = package / "img" / vendor / "64"
        images.mkdir(parents=True)
        (package / "emoji.json").write_text(json.dumps(rows()))
        (package / "README.md").write_text("a readme")
        (package / "img" / vendor / "sheets").mkdir()
        (package / "img" / vendor / "sheets" / "32.png").write_bytes(b"a sheet")
        for row in rows():
            for modifier, each in [("", row), *row.get("skin_variations", {}).items()]:
                colour = TONES.get(modifier.split("-")[0], YELLOW)
                shape = int(row["sort_order"])
                (images / each["image"]).write_bytes(drawing(shape, colour, number))
        (images / "ffff.png").write_bytes(drawing(9, YELLOW, number))
    return root


def rows() -> list[dict[str, Any]]:
    """`emoji.json`, with the keys that are read and one that is not."""
    tones = [*TONES]
    return [
        _row("MAN PILOT", "1F468-200D-2708-FE0F", ROLE, 1, tones),
        _row("WOMAN PILOT", "1F469-200D-2708-FE0F", ROLE, 2, tones),
        _row("PILOT", "1F9D1-200D-2708-FE0F", ROLE, 3, tones),
        _row("RAISED HAND", "270B", HAND, 4, tones),
        _row("COUPLE WITH HEART: MAN, MAN", "1F468-200D-2764-FE0F-200D-1F468", FAMILY, 5, [*tones, "1F3FB-1F3FF"]),
        _row("PEAR", "1F350", FRUIT, 6, []),
        _row("HAMMER", "1F528", TOOL, 7, []),
    ]


def _row(name: str, code: str, kind: tuple[str, str], order: int, tones: list[str]) -> dict[str, Any]:
    file = code.lower()
    row: dict[str, Any] = {"name": name, "unified": code, "category": kind[0], "subcategory": kind[1]}
    row |= {"image": f"{file}.png", "sort_order": order}
    if not tones:
        return row
    return row | {"skin_variations": {tone: {"image": f"{file}-{tone.lower()}.png"} for tone in tones}}


def drawing(shape: int, colour: tuple[int, int, int], style: int) -> bytes:
    """PNG bytes: a coloured part of the frame that differs by `shape`, with a dark edge that differs by `style`."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    down, across = np.mgrid[:64, :64]
    inside = (down - 20 - 3 * shape) ** 2 + (across - 32) ** 2 * (1 + shape % 3) < 300
    pixels[inside] = (*colour, 255)
    pixels[30:36, 6 + 4 * shape : 20 + 4 * shape] = (200 - 90 * style, 40, 40 + 120 * style, 255)
    written = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(written, "PNG")
    return written.getvalue()
