"""Small random images, their files, and rows of a curation that hold them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.curate import filters
from stages.curate.rows import ImageRow

MANY = 10**8


def picture(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """A smooth random image, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def row(data: bytes, name: str = "an image", text: str = "a thing", **more: object) -> ImageRow:
    return ImageRow(name, data, text, "test", **more)  # type: ignore[arg-type]


def decoded(image: Image.Image, score: float | None = None) -> ImageRow:
    made = row(saved(image), quality=score)
    assert filters.decode(MANY).fault(made) == ""
    return made
