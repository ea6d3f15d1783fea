"""Texts and captioned images to tensors: conditioning on texts, and VAE posteriors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from stages import pictures, tables
from stages.encode.settings import EncodeSettings
from stages.encode.store import MEANS, STDS, columns
from stages.models.conditioning import Conditioning, sizes
from stages.models.diffusion import DiffusionModel
from stages.runtime import progress, whole_file

SPLITS = ("train", "val")
"""Images of other splits are there for pairs only; no method trains on them."""


@torch.no_grad()
def encode(
    model: DiffusionModel, prompts: Path, images: Path, tensors: Path, index: Path, settings: EncodeSettings
) -> dict[str, float]:
    """Write the encodings of every prompt and captioned image, then their index; returns what was counted."""
    prompt_rows = tables.read(prompts, tables.PROMPTS).to_pylist()
    image_rows = [
        row
        for row in tables.read(images, tables.IMAGES, columns=["image_id", "caption", "split"]).to_pylist()
        if row["split"] in SPLITS
    ]
    texts = list(dict.fromkeys([row["prompt"] for row in prompt_rows] + [row["caption"] for row in image_rows]))
    given, truncated = _conditioning(model, texts, settings.batch_size)
    means, stds, side = _posteriors(model, images, len(image_rows), settings.batch_size)
    empty = model.text.empty().to("cpu")
    if model.layout.sized:
        given, empty = (replace(one, size=sizes(len(one), *side)) for one in (given, empty))
    parts = columns(given, empty=False) | columns(empty, empty=True) | {MEANS: means, STDS: stds}

    place = {text: row for row, text in enumerate(texts)}
    rows = [
        _entry("prompt", row["prompt_id"], row["prompt"], place[row["prompt"]], row["split"]) for row in prompt_rows
    ]
    for number, row in enumerate(image_rows):
        rows.append(_entry("image", row["image_id"], row["caption"], number, row["split"]))
        rows.append(_entry("caption", row["image_id"], row["caption"], place[row["caption"]], row["split"]))
    with whole_file(tensors) as partial:
        dtype = getattr(torch, settings.dtype)
        save_file({name: part.to(dtype).contiguous() for name, part in parts.items()}, partial)
    tables.write(index, tables.table(tables.ENCODINGS, rows), tables.ENCODINGS)
    if truncated:
        print(f"encode: {truncated} of {len(texts)} texts were cut at the text encoder's token limit")
    return {"prompts": len(prompt_rows), "images": len(image_rows), "texts": len(texts), "truncated": truncated}


def _entry(kind: str, item_id: str, text: str, row: int, split: str) -> dict[str, object]:
    return {"kind": kind, "item_id": item_id, "text": text, "row": row, "split": split}


def _conditioning(model: DiffusionModel, texts: list[str], size: int) -> tuple[Conditioning, int]:
    """Conditioning [N] on the CPU, and how many texts were truncated."""
    parts, truncated = [], 0
    starts = range(0, len(texts), size)
    for start in progress(starts, len(starts), "encode texts"):
        given, cut = model.text.encode(texts[start : start + size])
        parts.append(given.to("cpu"))
        truncated += cut
    return Conditioning.cat(parts), truncated


def _posteriors(model: DiffusionModel, images: Path, count: int, size: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Posterior means and standard deviations [N, C, h, w] on the CPU, and height and width of the images."""
    means, stds, sides = [], [], (0, 0)
    for batch in progress(_batches(images, size), -(-count // size), "encode images"):
        mean, std = model.vae.posterior(batch.to(model.device))
        means.append(mean.cpu())
        stds.append(std.cpu())
        sides = (batch.shape[2], batch.shape[3])
    return torch.cat(means), torch.cat(stds), sides


def _batches(images: Path, size: int) -> Iterator[Tensor]:
    """Batches [B, 3, H, W] in [0, 1] of the captioned images, in table order."""
    for part in tables.stream(images, tables.IMAGES, rows=size, columns=["image", "split"]):
        rows = [row["image"] for row in part.to_pylist() if row["split"] in SPLITS]
        if rows:
            yield pictures.tensor(rows, str(images))
