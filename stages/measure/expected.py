"""What a table of samples holds, before any image is looked at: settings, prompts, and how many images of each.

Columns, not rows: a table of a million images takes seconds and little memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages import tables
from stages.errors import InputError

KEY = ("run", "method", "train_seed", "strategy", "setting", "value")
"""What a setting is known by."""
Expected: TypeAlias = Mapping[tuple[object, ...], Counter[str]]
"""The key of a setting to how many images it has of every prompt; settings in the order of the table."""


def expected(path: Path, run: str) -> tuple[Expected, set[tuple[str, str]]]:
    """Images of every prompt, per setting, and the pairs (prompt id, prompt).

    Raises InputError where the table holds no images, images of another run, or an image twice.
    """
    rows = tables.read(path, tables.SAMPLES, [*KEY, "prompt_id", "prompt", "sample"])
    if not rows.num_rows:
        raise InputError(f"{path}: holds no images, expected some of run {run!r}")
    for found in rows["run"].unique().to_pylist():
        if found != run:
            raise InputError(f"{path}: holds images of run {found!r}, expected only {run!r}")
    if np.isnan(rows["value"].to_numpy()).any():
        raise InputError(f"{path}: 'value' is NaN for an image, expected the value of a setting; run sample again")
    refuse_twice(rows, [*KEY, "prompt_id", "sample"], path)
    counts: dict[tuple[object, ...], Counter[str]] = {}
    groups = rows.group_by([*KEY, "prompt_id"], use_threads=False).aggregate([("sample", "count")])
    for row in groups.to_pylist():
        key = tuple(row[name] for name in KEY)
        counts.setdefault(key, Counter())[row["prompt_id"]] = row["sample_count"]
    pairs = rows.select(["prompt_id", "prompt"]).group_by(["prompt_id", "prompt"]).aggregate([]).to_pylist()
    texts: dict[str, str] = {}
    for pair in pairs:
        known = texts.setdefault(pair["prompt_id"], pair["prompt"])
        if known != pair["prompt"]:
            both = f"{known[:60]!r} and {pair['prompt'][:60]!r}"
            raise InputError(f"{path}: prompt {pair['prompt_id']} is both {both}; run sample again")
    return counts, {(pair["prompt_id"], pair["prompt"]) for pair in pairs}


def refuse_twice(rows: pa.Table, keys: Sequence[str], path: Path) -> None:
    """Raise InputError where two rows have the same values in all `keys`."""
    items = rows.select([*keys]).append_column("one", pa.repeat(1, rows.num_rows))
    times = items.group_by([*keys], use_threads=False).aggregate([("one", "sum")])
    if times.num_rows == rows.num_rows:
        return
    row = times.filter(pc.field("one_sum") > 1).slice(0, 1).to_pylist()[0]
    what = [f"{words} {row[key]}" for key, words in NAMED.items() if row.get(key) is not None]
    raise InputError(f"{path}: {' of '.join(what)} stands twice under {row['setting']!r}")


NAMED = {"metric": "metric", "sample": "sample", "prompt_id": "prompt"}
"""What messages call the columns that tell rows of one setting apart."""
