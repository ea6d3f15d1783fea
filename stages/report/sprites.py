"""Small pictures of every image of the evaluation: one sheet per run and setting, prompts down, samples across."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages import tables
from stages.pictures import decode
from stages.report.settings import ThumbnailSettings

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """What every sheet has: the prompts of its rows, the number of samples in a row, and the size of a picture in
    pixels.
    """

    prompts: tuple[str, ...]
    samples: int
    width: int
    height: int


def layout(path: Path, prompts: Sequence[str], sheets: int, wanted: ThumbnailSettings) -> Layout:
    """The layout of `sheets` sheets of images as large as the first one of the table `path`.

    Where all of them have more pixels than `wanted.megapixels`, fewer samples are shown, at least two, then fewer
    prompts, spread evenly in the order of their ids.
    """
    here = int(max(tables.read(path, tables.SAMPLES, ["sample"])["sample"].to_pylist())) + 1
    first = opened(next(_rows(path, ["image"], 1))["image"], path)
    first.thumbnail((wanted.side, wanted.side))
    width, height = first.size
    room = int(wanted.megapixels * 1e6) // (width * height * sheets)
    samples = min(here, wanted.samples, max(2, room // len(prompts)))
    return Layout(tuple(spread(prompts, room // samples)), samples, width, height)


def spread(every: Sequence[T], count: int) -> list[T]:
    """At most `count` of these, but one at least, spread evenly over them."""
    count = max(1, min(len(every), count))
    return [every[round(place * (len(every) - 1) / max(1, count - 1))] for place in range(count)]


def sheets(path: Path, shape: Layout, quality: int) -> dict[tuple[str, str], str]:
    """The sheet of every (strategy, setting) in a table of samples, as a data URI; an image that is not there stays
    white. Raises InputError for an image that cannot be decoded.
    """
    from PIL import Image as pictures

    place = {prompt: row for row, prompt in enumerate(shape.prompts)}
    size = (shape.samples * shape.width, len(shape.prompts) * shape.height)
    found: dict[tuple[str, str], Image] = {}
    for row in _rows(path, ["strategy", "setting", "prompt_id", "sample", "image"]):
        if row["prompt_id"] not in place or row["sample"] >= shape.samples:
            continue
        key = row["strategy"], row["setting"]
        sheet = found.get(key) or found.setdefault(key, pictures.new("RGB", size, "white"))
        image = opened(row["image"], path)
        image.thumbnail((shape.width, shape.height), pictures.Resampling.LANCZOS)
        sheet.paste(image, (row["sample"] * shape.width, place[row["prompt_id"]] * shape.height))
    return {key: uri(sheet, quality) for key, sheet in found.items()}


def _rows(path: Path, columns: list[str], at_once: int = 128) -> Iterator[dict[str, Any]]:
    """The rows of a table of samples, few at a time: all images of a run may be larger than the memory."""
    for rows in tables.stream(path, tables.SAMPLES, at_once, columns):
        yield from rows.to_pylist()


def opened(data: bytes, path: Path) -> Image:
    """An image of the table `path`; raises InputError where it cannot be decoded."""
    from PIL import Image as pictures

    return pictures.fromarray(decode(data, str(path)))


def uri(sheet: Image, quality: int) -> str:
    """A sheet as a data URI."""
    # WebP: of the lossy formats that browsers show it is written ten times as fast as AVIF and is nearly as small.
    held = io.BytesIO()
    sheet.save(held, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode()}"
