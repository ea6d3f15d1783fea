"""Captioned images with columns of what is known of each, as a user's own Parquet has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.curate.decode import Unreadable, decode
from stages.curate.sources import columnar
from stages.curate.sources.records import Record, open_parquet
from stages.errors import InputError
from stages.params import nearest
from stages.pictures import MAX_PIXELS


@dataclass(frozen=True)
class Library:
    """uint8 images [N, h, w, 3], their captions, and for each the values [N][A] of the A attributes in `names`."""

    images: np.ndarray
    captions: list[str]
    names: tuple[str, ...]
    values: list[tuple[str, ...]]


def read(files: Sequence[Path], image: str, caption: str, attributes: Sequence[str]) -> Library:
    """All rows of Parquet files with these columns: images as bytes, texts as they are, without blanks at their ends.

    Images are decoded as `curate` decodes them: what a base learned to draw on white must not be compared with the
    colours that a transparent image hides. Raises InputError for a missing column, an empty caption or attribute, an
    image that is only a path or cannot be read, and images of several sizes.
    """
    keys = (image, caption, *attributes)
    require_columns(files, keys)
    images, captions, values = [], [], []
    for row in open_parquet(columnar.Shards(list(files)), keys).rows:
        images.append(_pixels(row, image))
        captions.append(_known(row, caption))
        values.append(tuple(_known(row, name) for name in attributes))
    if not images:
        raise InputError(f"{files[0] if files else 'no file'}: no rows, expected captioned images")
    sizes = Counter(f"{each.shape[1]}x{each.shape[0]}" for each in images)
    if len(sizes) > 1:
        found = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(3))
        raise InputError(f"{files[0]}: images of {len(sizes)} sizes ({found}); expected one, that of the base's images")
    return Library(np.stack(images), captions, tuple(attributes), values)


def require_columns(files: Sequence[Path], keys: Sequence[str]) -> None:
    """Raise InputError for a file that is no Parquet, or lacks one of these columns."""
    for file in files:
        if file.suffix.lower() not in columnar.SUFFIXES:
            raise InputError(f"{file}: expected Parquet with the columns {', '.join(keys)}")
        names = columnar.schema(file).names
        if not names:
            raise InputError(f"{file}: a table without columns, as of no rows; expected {', '.join(keys)}")
        if absent := next((key for key in keys if key not in names), None):
            raise InputError(f"{file}: no column {absent!r}{nearest(absent, names)}")


def _pixels(row: Record, key: str) -> np.ndarray:
    try:
        return np.asarray(decode(_bytes(row, key), MAX_PIXELS).image)
    except Unreadable as reason:
        raise InputError(f"{row.where}: {key!r}: not a readable image: {reason}") from None


def _bytes(row: Record, key: str) -> bytes:
    cell = row.get(key)
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise InputError(f"{row.where}: {key!r} holds no bytes of an image; write the files' bytes into the table")
    return data


def _known(row: Record, key: str) -> str:
    text = row.label(key).strip()
    if not text:
        raise InputError(f"{row.where}: {key!r} is empty; write a word for what it is, `none` say")
    return text
