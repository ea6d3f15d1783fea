"""Texts and captioned images to tensors: conditioning on texts, and VAE posteriors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from stages import pictures, tables
from stages.encode.settings import EncodeSettings
from stages.encode.store import MEANS, STDS, columns
from stages.errors import InputError
from stages.models.conditioning import Conditioning, sizes
from stages.models.diffusion import DiffusionModel
from stages.resume import State, Unit
from stages.runtime import progress, whole_file

SPLITS = ("train", "val")
"""Images of other splits are there for pairs only; no method trains on them."""
CUT = "cut"
"""Name of the count of truncated texts among what is kept of a batch."""


@torch.no_grad()
def encode(
    model: DiffusionModel, prompts: Path, images: Path, tensors: Path, index: Path, settings: EncodeSettings,
    state: State | None = None,
) -> dict[str, float]:  # fmt: skip
    """Write the encodings of every prompt and captioned image, then their index; returns what was counted.

    Batches that `state` holds are not encoded again.
    """
    state = state or State()
    prompt_rows = tables.read(prompts, tables.PROMPTS).to_pylist()
    image_rows = [
        row
        for row in tables.read(images, tables.IMAGES, columns=["image_id", "caption", "split", "source"]).to_pylist()
        if row["split"] in SPLITS
    ]
    tables.require_unique(prompts, "prompt_id", (row["prompt_id"] for row in prompt_rows))
    tables.require_unique(images, "image_id", (row["image_id"] for row in image_rows))
    texts = list(dict.fromkeys([row["prompt"] for row in prompt_rows] + [row["caption"] for row in image_rows]))
    given, truncated = _conditioning(model, texts, settings.batch_size, state)
    means, stds, side = _posteriors(model, images, len(image_rows), settings.batch_size, state)
    empty = model.text.empty().to("cpu")
    if model.layout.sized:
        given, empty = (replace(one, size=sizes(len(one), *side)) for one in (given, empty))
    parts = columns(given, empty=False) | columns(empty, empty=True) | {MEANS: means, STDS: stds}

    for name, part in parts.items():
        if not bool(torch.isfinite(part).all()):
            raise InputError(f"encode: {name} is not finite; expected a base with sound weights")
    place = {text: row for row, text in enumerate(texts)}
    rows = [_entry("prompt", row["prompt_id"], row["prompt"], place[row["prompt"]], row) for row in prompt_rows]
    for number, row in enumerate(image_rows):
        rows.append(_entry("image", row["image_id"], row["caption"], number, row))
        rows.append(_entry("caption", row["image_id"], row["caption"], place[row["caption"]], row))
    with whole_file(tensors) as partial:
        dtype = getattr(torch, settings.dtype)
        save_file({name: part.to(dtype).contiguous() for name, part in parts.items()}, partial)
    tables.write(index, tables.table(tables.ENCODINGS, rows), tables.ENCODINGS)
    if truncated:
        print(f"encode: {truncated} of {len(texts)} texts were cut at the text encoder's token limit")
    return {"prompts": len(prompt_rows), "images": len(image_rows), "texts": len(texts), "truncated": truncated}


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


def _posteriors(
    model: DiffusionModel, images: Path, count: int, size: int, state: State
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Posterior means and standard deviations [N, C, h, w] on the CPU, and height and width of the images."""

    def make(batch: list[bytes]) -> Unit:
        pixels = pictures.tensor(batch, str(images))
        mean, std = model.vae.posterior(pixels.to(model.device))
        return {"mean": mean.cpu(), "std": std.cpu(), "side": torch.tensor(pixels.shape[2:])}

    units = list(progress(state.results("images", _batches(images, size), make), -(-count // size), "encode images"))
    height, width = units[-1]["side"].tolist() if units else (0, 0)
    return torch.cat([unit["mean"] for unit in units]), torch.cat([unit["std"] for unit in units]), (height, width)


def _batches(images: Path, size: int) -> Iterator[list[bytes]]:
    """Batches of the captioned images as bytes, in table order."""
    for part in tables.stream(images, tables.IMAGES, rows=size, columns=["image", "split"]):
        rows = [row["image"] for row in part.to_pylist() if row["split"] in SPLITS]
        if rows:
            yield rows
