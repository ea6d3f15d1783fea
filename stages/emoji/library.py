"""The real images as Parquet: an images table of `curate` whose `attributes` say what is known of each image."""

from __future__ import annotations

import json
from pathlib import Path

from stages import tables
from stages.emoji.packages import About, Entry
from stages.errors import InputError

COLUMNS = ["image_id", "image", "split", "group", "attributes"]


def read(path: str | Path) -> list[Entry]:
    """The images of the table, called by their groups, without those that only pairs name.

    Raises InputError where it is no table of images, or an image has none of the attributes of an emoji.
    """
    found: list[Entry] = []
    for part in tables.stream(path, tables.IMAGES, 4096, COLUMNS):
        for row in part.to_pylist():
            if row["split"] != "pairs":
                found.append(Entry(row["group"], _about(row, path), row["image"]))
    if not found:
        raise InputError(f"{path}: no captioned images, expected the real images of the emoji world")
    return found


def _about(row: dict[str, str], path: str | Path) -> About:
    try:
        return About(**json.loads(row["attributes"] or "{}"))
    except (ValueError, TypeError):
        raise InputError(
            f"{path}: image {row['image_id']}: its attributes are {row['attributes']!r}, expected those of an emoji "
            "as curate writes them of a source of kind emoji"
        ) from None
