"""Running curation in a test, and small images to run it on."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stages import tables
from stages.curate.pipeline import Curation, Outputs
from stages.curate.settings import CurateSettings
from stages.params import validate
from stages.world.settings import WorldSettings

ROOT = Path(__file__).parents[2]
SHAPES_PROMPTS = {"train": {"kind": "shapes", "part": "train"}, "eval": {"kind": "shapes", "part": "eval"}}
NAMES = ("cat", "dog", "hen", "owl", "fox", "bee")
"""Of what the images of `photos` show."""
TABLES = [".csv", ".tsv", ".json", ".jsonl", ".parquet"]
"""Kinds of files that hold rows."""


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
        tables.read(outputs.pairs, tables.pairs_schema(outputs.pairs)).to_pylist(),
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


def photos(folder: Path, captions: bool = True) -> Path:
    """A folder of six images, two of them in a subfolder, with captions beside them."""
    for seed, name in enumerate(NAMES):
        path = folder / ("wild" if name in ("owl", "fox") else "") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
        if captions:
            path.with_suffix(".txt").write_text(f"the picture of one {name}\n", encoding="utf-8")
    return folder


def write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    """The rows as a csv, tsv, json, jsonl or Parquet file, by the suffix of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def prompt_list(path: Path, texts: list[str], key: str = "prompt") -> str:
    """The texts as a list or, with `key` as their column, a table, by the suffix of `path`."""
    if path.suffix == ".txt":
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return str(path)
    return write_table(path, [{"n": i, key: text} for i, text in enumerate(texts)])


def captions(made: Curated) -> dict[str, str]:
    """Caption by pixels (the image's id)."""
    return {row["image_id"]: row["caption"] for row in made.images}
