"""The rows of an images table as arrays to train on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stages import tables
from stages.errors import InputError
from stages.pictures import decode_row

MULTIPLE = 8
"""What divides the sides of images that pipelines of diffusers make, whatever their VAE."""
PAIRS = "pairs"
"""Split of images that curate keeps for pairs alone: they may be poor on purpose, and have no caption to learn."""
COLUMNS = ["image_id", "caption", "image", "width", "height", "split", "source"]


@dataclass(frozen=True)
class Pictures:
    """Images of one split: uint8 [n, side, side, 3], with their captions, ids and sources."""

    images: np.ndarray
    captions: list[str]
    ids: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any pixel or caption."""
        made = hashlib.blake2b(self.images.tobytes(), digest_size=8)
        made.update("\x1f".join(self.captions).encode())
        return made.hexdigest()

    def of(self, source: str, where: str) -> Pictures:
        """The captioned pictures of one source, or of all when it is empty; raises InputError when there are none."""
        named = zip(self.captions, self.sources, strict=True)
        rows = [row for row, (text, name) in enumerate(named) if text and source in ("", name)]
        if not rows:
            raise InputError(f"{where}: no image of source {source!r}, expected one of {sorted(set(self.sources))}")
        lists = ([values[row] for row in rows] for values in (self.captions, self.ids, self.sources))
        return Pictures(self.images[rows], *lists)


def require_side(pictures: Pictures, where: str) -> None:
    """Raise InputError where models of these pictures would have a size that no pipeline of diffusers takes."""
    side = pictures.images.shape[1]
    if side % MULTIPLE:
        scaled = side + MULTIPLE - side % MULTIPLE
        raise InputError(
            f"{where}: images of {side}x{side} pixels, expected a side that {MULTIPLE} divides; "
            f"`curate.side: {scaled}` scales them"
        )


def read_pictures(path: str | Path, split: str, pairs: bool = False) -> Pictures:
    """The rows of `split`, decoded; with `pairs` also, without a caption, the images that only pairs name.

    Raises InputError when there are none, or when they are not squares of one size.
    """
    images: list[np.ndarray] = []
    rows: list[dict[str, str]] = []
    for part in tables.stream(path, tables.IMAGES, 4096, COLUMNS):
        for row in part.to_pylist():
            if pairs and row["split"] == PAIRS:
                row["caption"] = ""
            if row["split"] == split or (pairs and row["split"] == PAIRS):
                images.append(decode_row(row, f"{path}: image {row['image_id']}"))
                del row["image"]
                rows.append(row)
    if not images:
        raise InputError(f"{path}: no image of split {split!r}, expected at least one")
    side = images[0].shape[0]
    for image, row in zip(images, rows, strict=True):
        if image.shape[:2] != (side, side):
            found = f"{image.shape[1]}x{image.shape[0]}"
            raise InputError(f"{path}: image {row['image_id']} has {found} pixels, expected {side}x{side} as the first")
    columns = ([row[name] for row in rows] for name in ("caption", "image_id", "source"))
    return Pictures(np.stack(images), *columns)
