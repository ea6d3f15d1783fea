"""Texts and captioned images to tensors: conditioning on texts, and VAE posteriors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stages import pictures, tables
from stages.encode.pairs import Pairs
from stages.encode.settings import EncodeSettings
from stages.encode.store import MADE_WITH, MEANS, STDS, columns
from stages.errors import InputError
from stages.models.conditioning import Conditioning, sizes
from stages.models.diffusion import DiffusionModel
from stages.resume import State, Unit
from stages.runtime import progress, whole_file

SPLITS = ("train", "val")
"""Images of other splits are there for pairs only."""
CUT = "cut"
"""Name of the count of truncated texts among what is kept of a batch."""


@torch.no_grad()
def encode(
    model: DiffusionModel, prompts: Path, images: Path, tensors: Path, index: Path, settings: EncodeSettings,
    state: State | None = None, compared: Path | None = None, made: Made | None = None,
) -> dict[str, float]:  # fmt: skip
    """Write the encodings of every prompt and captioned image, then their index; returns what was counted.

    With the table of pairs `compared`, also those of the prompt and of both images of every pair, each image once,
    and likewise for `made`. Batches that `state` holds are not encoded again.
    """
    state = state or State()
    judged_in = [path for path in (compared, made.pairs if made else None) if path]
    pairs = Pairs.read(*judged_in) if judged_in else None
    prompt_rows = tables.read(prompts, tables.PROMPTS).to_pylist()
    chosen = _Chosen([images, *([made.images] if made else [])], settings, pairs.images if pairs else ())
    image_rows = chosen.rows
    tables.require_unique(prompts, "prompt_id", (row["prompt_id"] for row in prompt_rows))
    tables.require_unique(images, "image_id", (row["image_id"] for row in image_rows))
    captioned = [row["caption"] for row in image_rows if row["split"] in SPLITS]
    texts = list(
        dict.fromkeys([row["prompt"] for row in prompt_rows] + captioned + (pairs.every_text if pairs else []))
    )
    place = {text: row for row, text in enumerate(texts)}
    numbers = {row["image_id"]: number for number, row in enumerate(image_rows)}
    judged = pairs.tensors(place, numbers, images) if pairs else {}
    given, truncated = _conditioning(model, texts, settings.batch_size, state)
    means, stds, side = _posteriors(model, chosen, settings.batch_size, state)
    empty = model.text.empty().to("cpu")
    if model.layout.sized:
        given, empty = (replace(one, size=sizes(len(one), *side)) for one in (given, empty))
    parts = columns(given, empty=False) | columns(empty, empty=True) | {MEANS: means, STDS: stds}

    for name, part in parts.items():
        if not bool(torch.isfinite(part).all()):
            raise InputError(f"encode: {name} is not finite; expected a base with sound weights")
    rows = [_entry("prompt", row["prompt_id"], row["prompt"], place[row["prompt"]], row) for row in prompt_rows]
    for number, row in enumerate(image_rows):
        rows.append(_entry("image", row["image_id"], row["caption"], number, row))
        if row["split"] in SPLITS:
            rows.append(_entry("caption", row["image_id"], row["caption"], place[row["caption"]], row))
    rows += pairs.index() if pairs else ()
    with whole_file(tensors) as partial:
        dtype = getattr(torch, settings.dtype)
        content = {name: part.to(dtype).contiguous() for name, part in parts.items()} | judged
        save_file(content, partial, {MADE_WITH: model.record.digest})
    tables.write(index, tables.table(tables.ENCODINGS, rows), tables.ENCODINGS)
    if truncated:
        print(f"encode: {truncated} of {len(texts)} texts were cut at the text encoder's token limit")
    counts: dict[str, float] = {
        "prompts": len(prompt_rows),
        "images": len(image_rows),
        "texts": len(texts),
        "truncated": truncated,
    }
    return counts | ({"pairs": len(pairs.rows)} if pairs else {})


@dataclass(frozen=True)
class Made:
    """Tables of pairs that were made after curation, and of their images."""

    images: Path
    pairs: Path


@dataclass(frozen=True)
class _Chosen:
    """The images to encode, from one or several tables: captioned ones, and those of pairs (`wanted`, by their ids)."""

    paths: Sequence[Path]
    settings: EncodeSettings
    wanted: Collection[str]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Their rows without the pixels, in table order. Raises InputError where there are none, and no `encode.side`
        says how large sampled images are.
        """
        columns = ["image_id", "caption", "split", "source", "width", "height"]
        every = (row for path in self.paths for row in tables.read(path, tables.IMAGES, columns=columns).to_pylist())
        rows = [row for row in every if self._has(row)]
        if not rows and self.settings.side is None:
            raise InputError(
                f"{self.paths[0]}: no image of splits {' and '.join(SPLITS)}, expected at least one to encode, or"
                " encode.side: the side of the images that are sampled"
            )
        return rows

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height that images of pairs are brought to: those of captioned images, or `encode.side`."""
        captioned = {(row["width"], row["height"]) for row in self.rows if row["split"] in SPLITS}
        compared = {(row["width"], row["height"]) for row in self.rows}
        side = self.settings.side
        if side and captioned - {(side, side)}:
            width, height = min(captioned - {(side, side)})
            raise InputError(f"encode.side: is {side}, but captioned images have {width}x{height} pixels; leave it out")
        if side:
            return side, side
        if not captioned and len(compared) > 1:
            some = " and ".join(f"{width}x{height}" for width, height in sorted(compared)[:2])
            raise InputError(
                f"encode.side: images of pairs have several sizes, such as {some} pixels, and there are no captioned "
                "images to take one from; say the side that they are brought to"
            )
        return min(captioned or compared)

    def batches(self, size: int) -> Iterator[list[bytes]]:
        """Batches of the images as bytes, in table order."""
        columns = ["image_id", "image", "split", "width", "height"]
        for path in self.paths:
            for part in tables.stream(path, tables.IMAGES, rows=size, columns=columns):
                rows = [self._fitted(row, path) for row in part.to_pylist() if self._has(row)]
                if rows:
                    yield rows

    def _has(self, row: Mapping[str, Any]) -> bool:
        return row["split"] in SPLITS or row["image_id"] in self.wanted

    def _fitted(self, row: Mapping[str, Any], path: Path) -> bytes:
        where = f"{path}: image {row['image_id']!r}"
        pictures.require_size(row, *pictures.size(row["image"], where), where)
        return row["image"] if row["split"] in SPLITS else pictures.fitted(row["image"], *self.size, where)


def _entry(kind: str, item_id: str, text: str, place: int, row: Mapping[str, object]) -> dict[str, object]:
    """An entry of the index for a curated row."""
    kept = {key: row[key] for key in ("split", "source")}
    return {"kind": kind, "item_id": item_id, "text": text, "row": place, **kept}


def _conditioning(model: DiffusionModel, texts: list[str], size: int, state: State) -> tuple[Conditioning, int]:
    """Conditioning [N] on the CPU, and how many texts were truncated."""

    def make(start: int) -> Unit:
        given, cut = model.text.encode(texts[start : start + size])
        return given.to("cpu").tensors() | {CUT: torch.tensor(cut)}

    starts = range(0, len(texts), size)
    units = list(progress(state.results("texts", starts, make), len(starts), "encode texts"))
    truncated = sum(int(unit.pop(CUT)) for unit in units)
    return Conditioning.cat([Conditioning(**unit) for unit in units]), truncated


def require_multiple(multiple: int, size: tuple[int, int]) -> None:
    """Raise InputError for a width and height that `multiple` does not divide: the base would make smaller images."""
    if any(side % multiple for side in size):
        raise InputError(
            f"encode: images of {size[0]}x{size[1]} pixels, expected sides that {multiple} divides, as the base's"
            " latents have it; `curate.side` scales images, `encode.side` says a side where there are none"
        )


def _posteriors(
    model: DiffusionModel, chosen: _Chosen, size: int, state: State
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Posterior means and standard deviations [N, C, h, w] on the CPU, and height and width of the images.

    Without images N is 0, and the shape that of the latents of an image of `encode.side`.
    """
    if not chosen.rows and (side := chosen.settings.side):
        require_multiple(model.layout.multiple, (side, side))
        mean, std = model.vae.posterior(torch.zeros(1, 3, side, side, device=model.device))
        return mean[:0].cpu(), std[:0].cpu(), (side, side)

    require_multiple(model.layout.multiple, chosen.size)

    def make(batch: list[bytes]) -> Unit:
        pixels = pictures.tensor(batch, " or ".join(map(str, chosen.paths)))
        mean, std = model.vae.posterior(pixels.to(model.device))
        return {"mean": mean.cpu(), "std": std.cpu(), "side": torch.tensor(pixels.shape[2:])}

    count = -(-len(chosen.rows) // size)
    units = list(progress(state.results("images", chosen.batches(size), make), count, "encode images"))
    height, width = units[-1]["side"].tolist()
    return torch.cat([unit["mean"] for unit in units]), torch.cat([unit["std"] for unit in units]), (height, width)
