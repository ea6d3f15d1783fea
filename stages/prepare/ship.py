"""Writes the trained models of a study as a small folder to ship: half precision, digests, recipe and measured scores.

The scores are measured on what is shipped: the half-precision files, loaded to float32 as every stage loads them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from stages import tables
from stages.errors import InputError
from stages.models import record
from stages.params import read_study
from stages.prepare import quality
from stages.prepare.base import in_world
from stages.prepare.pictures import PAIRS, Pictures, read_pictures
from stages.rewards import open_clip
from stages.rewards.base import load_reward, require_oracle
from stages.runtime import sha256, whole_file

DIGESTS = "digests.json"
GUIDANCES = (1.0, 1.5, 2.0, 3.0, 4.0)
FEW_GUIDANCES = (1.0, 2.0)
"""Guidance scales tried for a world of real images, where only the ancestral sampler is tried."""
SAMPLES = 8
BATCH = 500


@dataclass(frozen=True)
class World:
    """What a world of real images has beside networks: its oracle's record, a table of prompts, the folder of distilled
    models. The captioned images are shipped too.
    """

    oracle: Path
    prompts: Path
    distilled: Path


def ship(
    params: Path, models: Path, images: Path, pairs: Path, out: Path, device: torch.device, world: World | None = None
) -> None:
    """Write `out` with a folder for each base and CLIP model that the study at `params` trains, and `digests.json`.

    Without `world` the base is judged by the oracle of the shapes world.
    """
    study = read_study(params)
    trained = study["prepare"]["train"]
    names = [*trained["base"], *trained["clip"]]
    for name in names:
        if not (models / name).is_dir():
            raise InputError(f"{models / name}: no such folder, expected the trained model {name!r}")
    held_out = read_pictures(images, "val", pairs=True)
    if world is None and trained["base"] and not in_world(held_out):
        raise InputError(
            f"{images}: no caption is a sentence of the shapes world, whose oracle judges the base; for other images "
            "give --oracle, --prompts and --distilled"
        )
    for name in names:
        halve(models / name, out / name)
    scores: dict[str, Any] = {}
    for name, settings in trained["base"].items():
        pictures = held_out.of(settings.get("source", ""), str(images))
        scores[name] = base_scores(out / name, pictures, scorer(world), device, whole=world is None)
    for name, settings in trained["clip"].items():
        judged = settings.get("pair_source", "") if world is not None else ""
        scores[name] = clip_scores(out / name, held_out, settings.get("source", ""), pairs, device, judged)
    if world is not None:
        write_images(images, out / "images.parquet")
        for name in trained["consistency"]:
            halve(world.distilled / name, out / name)
    recipe = {key: study[key] for key in ("world", "curate", "prepare") if key in study}
    content = {"files": digests(out), "scores": scores, "recipe": recipe}
    with whole_file(out / DIGESTS) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def halve(source: Path, target: Path) -> None:
    """Copy a model folder; single-precision weights become half-precision ones."""
    for file in sorted(source.rglob("*")):
        if not file.is_file() or file.name.startswith("."):
            continue
        made = target / file.relative_to(source)
        made.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(made) as partial:
            if file.suffix == ".safetensors":
                weights = {name: _half(value) for name, value in load_file(file).items()}
                save_file(weights, partial, metadata={"format": "pt"})
            else:
                shutil.copyfile(file, partial)


def _half(value: Tensor) -> Tensor:
    return value.half() if value.dtype == torch.float32 else value


def digests(folder: Path) -> dict[str, dict[str, object]]:
    """SHA-256 and size in bytes of every file below `folder` but the digests themselves."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS)
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size} for path in files
    }


def load_pipeline(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    """A shipped base as a pipeline in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    return pipeline.to(device)


def scorer(world: World | None) -> quality.Scorer:
    """Who judges the base's images, and on which prompts."""
    if world is None:
        return quality.SHAPES
    oracle = require_oracle(load_reward(record.load(world.oracle)))
    prompts = tables.read(world.prompts, tables.PROMPTS, ["prompt", "split"]).to_pylist()
    return quality.by_oracle(oracle, [row["prompt"] for row in prompts if row["split"] == "eval"])


def write_images(images: Path, out: Path) -> None:
    """Write the rows of an images table, without those that only pairs name."""
    parts = tables.stream(images, tables.IMAGES, 512)
    kept = (part.filter(pc.field("split") != PAIRS) for part in parts)
    tables.write(out, (part for part in kept if len(part)), tables.IMAGES)


def base_scores(
    folder: Path, pictures: Pictures, scorer: quality.Scorer, device: torch.device, whole: bool
) -> dict[str, Any]:
    """Scores of the base by sampler and guidance scale, and of its VAE; not `whole`: of one sampler, at few scales."""
    pipeline = load_pipeline(folder, device)
    found: dict[str, Any] = {"vae": quality.vae_scores(pipeline.vae, pictures, scorer, device)}
    if whole:
        found["ddim"] = quality.base_scores(pipeline, scorer, GUIDANCES, SAMPLES)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    found["ddpm"] = quality.base_scores(pipeline, scorer, GUIDANCES if whole else FEW_GUIDANCES, SAMPLES)
    return found


def clip_scores(
    folder: Path, held_out: Pictures, source: str, pairs: Path, device: torch.device, pair_source: str = ""
) -> dict[str, float]:
    """Retrieval and pair accuracy of a CLIP model on validation rows; pairs of one source, or all where it is empty."""
    embed, encode = embedder(folder, device)
    judged = quality.read_pairs(pairs, "val", pair_source, held_out)
    return {
        "retrieval": quality.retrieval(held_out.of(source, "validation images"), embed, encode),
        "pair_accuracy": quality.pair_accuracy(held_out, judged, embed, encode),
    }


def embedder(folder: Path, device: torch.device) -> tuple[quality.Embed, quality.Encode]:
    """Image and text features of a shipped CLIP model, through the loader that every stage uses."""
    model = open_clip.load(record.describe(folder.name, "open_clip", folder), device)

    def embed(images) -> Tensor:
        parts = []
        for start in range(0, len(images), BATCH):
            pixels = torch.as_tensor(images[start : start + BATCH]).to(device).permute(0, 3, 1, 2).float() / 255
            parts.append(functional.normalize(model.embed(pixels), dim=-1))
        return torch.cat(parts)

    return embed, model.encode_text
