"""Renoised pairs: real images noised to two levels and denoised again by the base, as tables of images and pairs.

DenseDPO (Wu et al. 2025, arXiv 2506.03517) makes both videos of a pair of one real one so, at one level, and has people
label them. Here the less noised image is preferred, which is ours: it is nearer to the real image. With equal levels
the pairs are ties, for a judge to label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from stages import pictures, tables
from stages.curate.decode import pixel_digest
from stages.errors import InputError
from stages.models.diffusion import Denoiser, DiffusionModel, posterior_sample
from stages.models.noise import KeyedNoise
from stages.models.sampler import finish
from stages.renoise.settings import RenoiseSettings
from stages.resume import State, Unit
from stages.runtime import progress, sha256, whole_file

VERSION = 1
ROWS = 512
"""Images in a row group."""


@dataclass
class Counts:
    """What became of the images: those that were renoised, the pairs of them, pairs that were left out because both
    images came out alike, and network evaluations.
    """

    images: int = 0
    pairs: int = 0
    alike: int = 0
    evaluations: int = 0
    ids: set[str] = field(default_factory=set)

    def as_dict(self) -> dict[str, float]:
        """Numbers for the record of the job."""
        return {name: getattr(self, name) for name in ("images", "pairs", "alike", "evaluations")}


@dataclass(frozen=True)
class Renoiser:
    """The base on a grid, and how it makes two images of one."""

    model: DiffusionModel
    settings: RenoiseSettings
    study_seed: int

    def unit(self, rows: Sequence[dict[str, Any]]) -> Unit:
        """Two images of each real one as `images` uint8 [each, 2, B, H, W, 3], and the network's `evaluations`."""
        settings, model = self.settings, self.model
        with torch.no_grad():
            pixels = pictures.tensor((row["image"] for row in rows), "renoise: images").to(model.device)
            mean, std = model.vae.posterior(pixels)
            texts, empty = model.text.encode([row["caption"] for row in rows])[0], model.text.empty()
            denoiser, grid = Denoiser(model.unet, model.process), model.process.grid(settings.steps)
            predict = denoiser.predict(grid, texts, empty, settings.guidance)
            made = [self._pair(rows, mean, std, number, grid, predict) for number in range(settings.each)]
        return {"images": torch.stack(made), "evaluations": torch.tensor(denoiser.evaluations)}

    def _pair(self, rows: Sequence[dict[str, Any]], mean: Tensor, std: Tensor, number: int, grid, predict) -> Tensor:
        """Images uint8 [2, B, H, W, 3] of posteriors, for the pair with that number."""
        sides = []
        for side, begin in enumerate(self.settings.begins):
            # where nothing else tells the two apart, their noise does
            key = ("renoised", self.settings.seed, number, side if self.settings.tied else 0)
            keys = [(*key, row["image_id"]) for row in rows]
            noise = KeyedNoise(self.study_seed, keys, tuple(mean.shape[1:]), self.model.device)
            clean = posterior_sample(mean, std, noise.extra("posterior"), self.model.vae.scale)
            x = grid.noised(clean, noise.extra("forward"), begin)
            clean = finish(grid, predict, x, begin, noise, self.settings.sampler)
            sides.append(torch.from_numpy(pictures.levels(self.model.vae.decode(clean))))
        return torch.stack(sides)


def renoise(
    model: DiffusionModel, settings: RenoiseSettings, study_seed: int, images: Path, outputs: tuple[Path, Path, Path],
    state: State | None = None,
) -> dict[str, float]:  # fmt: skip
    """Write the tables of images and of pairs, then the manifest (`outputs`); returns what was counted.

    `images` are the curated ones, of which those of split `train` are taken. Raises InputError where there are none.
    """
    state, counts, pairs = state or State(), Counts(), []
    wanted = _wanted(images, settings)
    renoiser = Renoiser(model, settings, study_seed)
    with whole_file(outputs[2]) as manifest, whole_file(outputs[0]) as made, whole_file(outputs[1]) as compared:
        batches = _batches(images, wanted, settings.batch_size)
        kept: list[list[dict[str, Any]]] = []

        def unit(batch: list[dict[str, Any]]) -> Unit:
            return renoiser.unit(batch)

        def noted() -> Iterator[list[dict[str, Any]]]:
            for batch in batches:
                kept.append(batch)
                yield batch

        total = -(-len(wanted) // settings.batch_size)
        units = progress(state.results("renoised", noted(), unit), total, "renoise images")
        rows = (row for found in units for row in _rows(found, kept.pop(0), settings, counts, pairs))
        tables.write(made, _groups(rows), tables.IMAGES)
        if not pairs:
            raise InputError(f"renoise: the two images of each of {counts.images} pairs came out alike")
        tables.write(compared, tables.table(tables.PAIRS, pairs), tables.PAIRS)
        files = dict(zip((one.name for one in outputs[:2]), (made, compared), strict=True))
        _write_manifest(manifest, settings, counts, files)
    return counts.as_dict()


def _wanted(images: Path, settings: RenoiseSettings) -> set[str]:
    """Ids of the images that are renoised: the first `limit` of the training images of the source."""
    rows = tables.read(images, tables.IMAGES, columns=["image_id", "split", "source"]).to_pylist()
    found = [
        row["image_id"] for row in rows if row["split"] == "train" and settings.of in (None, row["source"])
    ]  # fmt: skip
    if not found:
        of = "" if settings.of is None else f" from source {settings.of!r}"
        raise InputError(f"{images}: no image of split 'train'{of}, expected at least one to renoise")
    return set(found[: settings.limit])


def _batches(images: Path, wanted: set[str], size: int) -> Iterator[list[dict[str, Any]]]:
    columns = ["image_id", "caption", "image", "split", "group", "width", "height"]
    for part in tables.stream(images, tables.IMAGES, rows=size, columns=columns):
        rows = [row for row in part.to_pylist() if row["image_id"] in wanted]
        if rows:
            yield rows


def _rows(
    unit: Unit, batch: Sequence[dict[str, Any]], settings: RenoiseSettings, counts: Counts, pairs: list[Any]
) -> Iterator[dict[str, object]]:
    """Rows of the table of images of a batch; its pairs are added to `pairs`."""
    counts.images += len(batch)
    counts.evaluations += int(unit["evaluations"])
    less = int(settings.begins[1] > settings.begins[0])
    for both in unit["images"].numpy():
        for place, row in enumerate(batch):
            sides = [both[side][place] for side in (less, 1 - less)]
            ids = [pixel_digest(Image.fromarray(side))[:12] for side in sides]
            if ids[0] == ids[1]:
                counts.alike += 1
                continue
            for image_id, side in zip(ids, sides, strict=True):
                if image_id not in counts.ids:
                    counts.ids.add(image_id)
                    yield _image(image_id, side, row, settings.name)
            counts.pairs += 1
            pairs.append(
                {"pair_id": _pair_id(row["image_id"], *ids), "prompt": row["caption"], "image_a": ids[0],
                 "image_b": ids[1], "preference": 0.5 if settings.tied else 1.0, "split": "train",
                 "source": settings.name}
            )  # fmt: skip


def _image(image_id: str, pixels: np.ndarray, row: dict[str, Any], source: str) -> dict[str, object]:
    height, width = pixels.shape[:2]
    return {
        "image_id": image_id, "caption": row["caption"], "image": pictures.encode(pixels), "width": width,
        "height": height, "split": "pairs", "group": row["group"], "source": source, "attributes": None,
    }  # fmt: skip


def _pair_id(*names: str) -> str:
    return hashlib.sha256("\x1f".join(("renoised", *names)).encode()).hexdigest()[:12]


def _groups(rows: Iterator[dict[str, object]]) -> Iterator[pa.Table]:
    group: list[dict[str, object]] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS:
            yield tables.table(tables.IMAGES, group)
            group = []
    yield tables.table(tables.IMAGES, group)


def _write_manifest(path: Path, settings: RenoiseSettings, counts: Counts, files: dict[str, Path]) -> None:
    content = {
        "version": VERSION,
        "source": settings.name,
        "strengths": settings.strengths,
        "steps": [settings.steps - begin for begin in settings.begins],
        "tables": counts.as_dict() | {"ties": counts.pairs if settings.tied else 0},
        "outputs": {name: {"sha256": sha256(file), "bytes": file.stat().st_size} for name, file in files.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
