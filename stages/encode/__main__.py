"""Encode prompts and captioned images once: text embeddings and VAE posteriors, with an index."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages import lineage, tables
from stages.encode.settings import EncodeSettings
from stages.params import section
from stages.runtime import device, progress, run_stage, whole_file

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import DiffusionModel


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.encode", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--prompts", type=Path, required=True, help="prompts.parquet of curate")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of curate")
    parser.add_argument("--tensors", type=Path, required=True, help="written: encodings.safetensors")
    parser.add_argument("--index", type=Path, required=True, help="written: index.parquet")
    args = parser.parse_args()
    settings = section(args.params, "encode", EncodeSettings)

    from stages.models.diffusion import load_diffusion
    from stages.models.record import load

    with lineage.job(
        params=args.params, stage="encode", name="encode",
        inputs=[args.prompts, args.images, args.base], outputs=[args.tensors, args.index],
    ) as job:  # fmt: skip
        model = load_diffusion(load(args.base), device(), parts=("vae", "text_encoder"))
        counts = encode(model, args.prompts, args.images, args.tensors, args.index, settings)
        job.metrics(counts)


def encode(
    model: DiffusionModel, prompts: Path, images: Path, tensors: Path, index: Path, settings: EncodeSettings
) -> dict[str, float]:
    """Write the encodings of every prompt and image and their index; returns counts (prompts cut at the token limit
    too).
    """
    import torch
    from safetensors.torch import save_file

    from stages.encode.store import EMPTY, MEANS, STDS, TEXTS

    prompt_rows = tables.read(prompts, tables.PROMPTS).to_pylist()
    image_rows = tables.read(images, tables.IMAGES, columns=["image_id", "caption", "split"]).to_pylist()
    texts = list(dict.fromkeys([row["prompt"] for row in prompt_rows] + [row["caption"] for row in image_rows]))
    text_row = {text: row for row, text in enumerate(texts)}
    dtype = getattr(torch, settings.dtype)

    with torch.no_grad():
        embeddings, truncated = _texts(model, texts, settings.batch_size)
        means, stds = _posteriors(model, images, len(image_rows), settings.batch_size)
        empty, _ = _texts(model, [""], 1)
    parts = {TEXTS: embeddings, EMPTY: empty, MEANS: means, STDS: stds}
    rows: list[dict[str, object]] = []
    for row in prompt_rows:
        rows.append(_entry("prompt", row["prompt_id"], row["prompt"], text_row[row["prompt"]], row["split"]))
    for number, row in enumerate(image_rows):
        rows.append(_entry("image", row["image_id"], row["caption"], number, row["split"]))
        rows.append(_entry("caption", row["image_id"], row["caption"], text_row[row["caption"]], row["split"]))
    with whole_file(tensors) as partial:
        save_file({name: part.to(dtype).contiguous() for name, part in parts.items()}, partial)
    tables.write(index, tables.table(tables.ENCODINGS, rows), tables.ENCODINGS)
    if truncated:
        print(f"encode: {truncated} of {len(texts)} texts were cut at the text encoder's token limit")
    return {"prompts": len(prompt_rows), "images": len(image_rows), "texts": len(texts), "truncated": truncated}


def _entry(kind: str, item_id: str, text: str, row: int, split: str) -> dict[str, object]:
    return {"kind": kind, "item_id": item_id, "text": text, "row": row, "split": split}


def _texts(model: DiffusionModel, texts: list[str], size: int) -> tuple[Tensor, int]:
    """Embeddings [N, length, width] on the CPU, and how many texts were truncated."""
    import torch

    parts, truncated = [], 0
    starts = range(0, len(texts), size)
    for start in progress(starts, len(starts), "encode texts"):
        ids, cut = model.text.tokens(texts[start : start + size])
        parts.append(model.text.hidden(ids.to(model.schedule.alphas_cumprod.device)).cpu())
        truncated += cut
    return torch.cat(parts), truncated


def _posteriors(model: DiffusionModel, images: Path, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations [N, C, h, w] on the CPU."""
    import torch

    means, stds = [], []
    for batch in progress(_pixels(images, size), -(-count // size), "encode images"):
        mean, std = model.vae.posterior(batch.to(model.schedule.alphas_cumprod.device))
        means.append(mean.cpu())
        stds.append(std.cpu())
    return torch.cat(means), torch.cat(stds)


def _pixels(images: Path, size: int) -> Iterator[Tensor]:
    """Batches [B, 3, H, W] in [0, 1] of the curated images."""
    import numpy as np
    import torch
    from PIL import Image

    for part in tables.stream(images, tables.IMAGES, rows=size, columns=["image"]):
        arrays = [np.asarray(Image.open(io.BytesIO(data.as_py())).convert("RGB")) for data in part.column("image")]
        yield torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


if __name__ == "__main__":
    run_stage(main)
