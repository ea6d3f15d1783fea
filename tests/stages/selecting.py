"""Steps over curated pairs in a test: small tables of pairs and scores, and what a run of the steps leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from stages import tables
from stages.pictures import encode
from stages.select.pairs import Table
from stages.select.run import Selected, select, write
from stages.select.settings import SelectSettings, steps

Row = dict[str, Any]
Scores = Mapping[str, Mapping[tuple[str, str], float]]
"""By reward, that of an image under a prompt."""
PROMPTS = ("a cat", "a dog that sleeps", "two red birds on a wire", "the sea", "a cat that sleeps by the sea")


@dataclass(frozen=True)
class Left:
    """What one run wrote: rows by their ids, and the manifest."""

    rows: dict[str, Row]
    manifest: dict[str, Any]
    schema: Any

    @property
    def preferences(self) -> dict[str, float]:
        return {name: row["preference"] for name, row in self.rows.items()}


def pair(number: int, prompt: str, a: str, b: str, preference: float = 1.0, split: str = "train", **more: Any) -> Row:
    about = {"pair_id": f"p{number:03}", "prompt": prompt, "image_a": a, "image_b": b, "preference": preference}
    return about | {"split": split, "source": "file"} | more


def images(folder: Path, shown: Mapping[str, np.ndarray]) -> Path:
    path = folder / "images.parquet"
    rows: list[dict[str, object]] = [
        {"image_id": name, "caption": "x", "image": encode(pixels), "width": pixels.shape[1],
         "height": pixels.shape[0], "split": "pairs", "group": name, "source": "file", "attributes": None}
        for name, pixels in shown.items()
    ]  # fmt: skip
    tables.write(path, tables.table(tables.IMAGES, rows), tables.IMAGES)
    return path


def put(folder: Path, rows: Sequence[Row], scores: Scores) -> tuple[Path, dict[str, Path]]:
    """The table of pairs, and the scores as the stage `score` writes them."""
    schema = tables.JUDGED_PAIRS if "weight" in rows[0] else tables.PAIRS
    pairs = folder / "pairs.parquet"
    tables.write(pairs, tables.table(schema, list(rows)), schema)
    found = {}
    for name, values in scores.items():
        found[name] = folder / f"{name}.parquet"
        written: list[dict[str, object]] = [{"kind": "image", "item_id": "i", "side": "", "reward": name, "score": 9.0}]
        written += [
            {"kind": "pair", "item_id": row["pair_id"], "side": side, "reward": name,
             "score": values[row[f"image_{side}"], row["prompt"]]}
            for row in rows for side in ("a", "b")
        ]  # fmt: skip
        tables.write(found[name], tables.table(tables.SCORES, written), tables.SCORES)
    return pairs, found


def chosen(pairs: Path, scores: Mapping[str, Path], *wanted: dict[str, Any], shown: Path = Path()) -> Selected:
    made = steps(SelectSettings(steps=wanted), "study.yaml: select")
    return select(Table(pairs).training(scores, shown), made)


def run(
    folder: Path, rows: Sequence[Row], scores: Scores, *wanted: dict[str, Any],
    shown: Mapping[str, np.ndarray] | None = None,
) -> Left:  # fmt: skip
    """The steps on a table, from files to files."""
    pairs, scored = put(folder, rows, scores)
    selected = chosen(pairs, scored, *wanted, shown=images(folder, shown) if shown else Path())
    out, manifest = folder / "out.parquet", folder / "out.json"
    write(selected, Table(pairs), out, manifest)
    schema = tables.pairs_schema(out)
    return Left(
        {row["pair_id"]: row for row in tables.read(out, schema).to_pylist()}, json.loads(manifest.read_text()), schema
    )


def scored(*values: tuple[str, float], prompt: str = "a cat") -> Scores:
    return {"r": {(image, prompt): score for image, score in values}}


@st.composite
def studies(draw: st.DrawFn) -> tuple[list[Row], Scores]:
    """Pairs of few images and prompts, so that images come back and scores are equal now and then."""
    count = draw(st.integers(2, 24))
    names = [f"i{n}" for n in range(5)]
    whole = st.integers(-2, 2)
    rows = []
    for number in range(count):
        a, b = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
        share = draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
        split = "val" if number and draw(st.integers(0, 5)) == 0 else "train"
        rows.append(pair(number, draw(st.sampled_from(PROMPTS)), a, b, share, split))
    scores = {r: {(i, p): float(draw(whole)) for i in names for p in PROMPTS} for r in ("r", "s", "t")}
    return rows, scores
