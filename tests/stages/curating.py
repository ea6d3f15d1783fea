"""Running curation in a test, and small images to run it on."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages import tables
from stages.curate.pipeline import Curation, Outputs
from stages.curate.settings import CurateSettings
from stages.params import validate
from stages.world.settings import WorldSettings

ROOT = Path(__file__).parents[2]
SHAPES_PROMPTS = {"train": {"kind": "shapes", "part": "train"}, "eval": {"kind": "shapes", "part": "eval"}}


@dataclass(frozen=True)
class Curated:
    """What one run of the stage wrote."""

    prompts: list[dict[str, Any]]
    images: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    manifest: dict[str, Any]

    def removed(self, table: str) -> dict[str, int]:
        """Rows that each filter of a table removed, where it removed any."""
        filters = self.manifest["tables"][table]["filters"]
        return {each["filter"]: each["removed"] for each in filters if each["removed"]}


def curate(folder: Path, section: dict[str, Any], world: WorldSettings | None = None, seed: int = 0) -> Curated:
    """Run the stage's own code on a `curate` section; results are written to `folder`."""
    settings = validate(CurateSettings, section, "curate")
    outputs = Outputs(*(folder / name for name in ("prompts.parquet", "images.parquet", "pairs.parquet", "m.json")))
    Curation(settings, world or WorldSettings(), seed).run(outputs)
    return Curated(
        tables.read(outputs.prompts, tables.PROMPTS).to_pylist(),
        tables.read(outputs.images, tables.IMAGES).to_pylist(),
        tables.read(outputs.pairs, tables.PAIRS).to_pylist(),
        json.loads(outputs.manifest.read_text()),
    )


def png(seed: int, side: int = 24) -> bytes:
    """A small random image as PNG bytes, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def environment() -> dict[str, str]:
    """The environment of a stage started by a test: our code, one thread, no tracking."""
    return os.environ | {"PYTHONPATH": str(ROOT), "LINEAGE": "off", "OMP_NUM_THREADS": "1"}
