"""Reads the packages of emoji images in the layout in which they are published (`emoji-datasource-<vendor>` 16.0.0).

A package has `emoji.json`, a list of emoji with name, category, code and image, where there are tones also an image of
each, and the images themselves, 64x64 pixels with transparency, in `img/<vendor>/64/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages import walk
from stages.curate.left_out import LeftOut
from stages.emoji.names import TONES, caption, meaning
from stages.errors import InputError
from stages.params import nearest

PACKAGE, SIDE = "emoji-datasource-{vendor}", 64
KEYS = ("name", "category", "subcategory", "unified", "image")


@dataclass(frozen=True)
class About:
    """What is known of an image. `tone` is empty where an emoji has no tones, yellow where it has some and shows none;
    `gender` is woman, man or empty.
    """

    caption: str
    concept: str
    gender: str
    tone: str
    vendor: str
    category: str
    subcategory: str

    def as_json(self) -> str:
        """For the column `attributes` of an images table."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Entry:
    """An image, called `<vendor>/<file>`, and what is known of it; `content` is its bytes or the file of them."""

    name: str
    about: About
    content: bytes | Path

    def read(self) -> bytes:
        """The bytes of the image file."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Wanted:
    """Which images are read; without `subcategories` all of the categories."""

    vendors: Sequence[str]
    categories: Sequence[str]
    subcategories: Sequence[str] | None = None

    def fault(self, about: About) -> str:
        """Why an image is not wanted; empty for one that is."""
        if about.vendor not in self.vendors:
            return f"of vendor {about.vendor}"
        if about.category not in self.categories:
            return f"of category {about.category}"
        if self.subcategories is not None and about.subcategory not in self.subcategories:
            return f"of subcategory {about.subcategory}"
        return ""


def entries(root: Path, wanted: Wanted, left_out: LeftOut) -> list[Entry]:
    """The wanted images of the packages below `root` in the order of `emoji.json`, vendor by vendor.

    Everything else in the packages is counted in `left_out`. Raises InputError for a package, a list, a category or a
    subcategory that is not there.
    """
    return [entry for vendor in wanted.vendors for entry in _of(root, vendor, wanted, left_out)]


def _of(root: Path, vendor: str, wanted: Wanted, left_out: LeftOut) -> Iterator[Entry]:
    package = root / PACKAGE.format(vendor=vendor)
    if not package.is_dir():
        raise InputError(
            f"{root}: there is no folder {package.name} here, expected the package of that name, unpacked "
            "(docs/emoji-world.md)"
        )
    below = walk.search(package)
    left_out.add_unread(below.unread)
    images = package / "img" / vendor / str(SIDE)
    for file in below.files:
        left_out.unless_read([file], "an image that emoji.json does not name" if file.parent == images else "")
    table = package / "emoji.json"
    rows = _rows(table)
    left_out.read(table)
    _require(table, "category", wanted.categories, rows)
    inside = [row for row in rows if row["category"] in wanted.categories]
    _require(table, "subcategory", wanted.subcategories or (), inside)
    for row in rows:
        for tones, image in _images(row, table):
            file = images / image
            about = _about(row, tones, vendor)
            reason = wanted.fault(about) or ("of two tones" if "-" in tones else "")
            if not file.is_file():
                left_out.add(str(file), f"{vendor} has no such image")
                continue
            left_out.read(file)
            if reason:
                left_out.add(str(file), reason)
            else:
                yield Entry(f"{vendor}/{image}", about, file)


def _require(table: Path, key: str, wanted: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Raise InputError for a category or subcategory of which there is no emoji."""
    known = {row[key] for row in rows}
    for name in wanted:
        if name not in known:
            raise InputError(f"{table}: there is no {key} {name!r}{nearest(name, known)}")


def _about(row: dict[str, Any], tone: str, vendor: str) -> About:
    text = caption(row["name"])
    said = meaning(row["unified"], text)
    shown = TONES.get(tone, "") if row.get("skin_variations") else ""
    return About(text, said.concept, said.gender, shown, vendor, row["category"], row["subcategory"])


def _images(row: dict[str, Any], table: Path) -> Iterator[tuple[str, str]]:
    """Modifiers of the tone and file name of every image of an emoji; raises InputError for one of another layout."""
    yield "", row["image"]
    for tones, each in (row.get("skin_variations") or {}).items():
        if any(tone not in TONES for tone in tones.split("-")) or not isinstance(each.get("image"), str):
            raise InputError(f"{table}: {row['name']}: skin_variations.{tones}: expected tones {', '.join(TONES)[2:]}")
        yield tones, each["image"]


def _rows(table: Path) -> list[dict[str, Any]]:
    """The entries of `emoji.json`. Raises InputError where it is missing or of another layout."""
    try:
        rows = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{table}: cannot be read: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{table}: expected a list of emoji, found {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        wrong = [
            key
            for key in ("name", "category", "subcategory", "unified", "image")
            if not isinstance(_get(row, key), str)
        ]
        if wrong:
            raise InputError(f"{table}: emoji {number}: {wrong[0]!r} is {_get(row, wrong[0])!r}, expected text")
    return rows


def _get(row: object, key: str) -> object:
    return row.get(key) if isinstance(row, dict) else None
