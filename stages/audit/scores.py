"""From the images of a run to the scores of images and prompts, by the models on record and numpy."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.audit.reading import read
from stages.models.record import load as load_record
from stages.rewards.base import load_reward
from stages.runtime import device, progress


def image_scores(raw: Mapping[str, Any], out: Path, runs: list[str]) -> Iterator[tuple[tuple[Any, ...], float]]:
    """(run, strategy, setting, prompt, sample or -1, metric) and value: rewards, CLIPScore, diversities by cosine."""
    import torch
    from PIL import Image

    settings, text = raw["measure"], raw["measure"].get("text_image")
    spaces = {name: how for name, how in settings.get("features", {}).items() if how != "distance"}
    judges = {name: name for name in settings["rewards"]} | ({"clipscore": text} if text else {})
    records = {name: load_record(out / "models" / f"{name}.json", name) for name in {*judges.values(), *spaces}}
    models: dict[str, Any] = {name: load_reward(record, device()) for name, record in records.items()}
    point = ["strategy", "setting", "prompt_id"]
    files = {run: out / "samples" / f"{run}.parquet" for run in runs}
    total = sum(len(read(file, columns=point).drop_duplicates()) for file in files.values())
    every = ((run, *group) for run, file in files.items() for group in read(file).groupby(point, sort=False))
    for run, key, rows in progress(every, total, "prompts judged"):
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in rows["image"]])
        images = torch.from_numpy(pixels).to(device()).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            for metric, name in judges.items():
                for sample, score in zip(rows["sample"], models[name](images, list(rows["prompt"])), strict=True):
                    yield (run, *key, sample, metric), float(score)
            for name, how in spaces.items() if len(rows) > 1 else ():
                found = models[name].patches(images) if how == "patches" else models[name].embed(images)[:, None]
                unit = found.double() / found.double().norm(dim=-1, keepdim=True)
                cosines = torch.einsum("ind,jnd->nij", unit, unit).cpu().numpy()
                pairs = cosines[:, *np.triu_indices(len(rows), 1)]
                yield (run, *key, -1, f"{name}_diversity"), float(1 - pairs.mean())
