"""Steps over curated pairs, the table that is left, and the count of what each step did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages import tables
from stages.errors import InputError
from stages.runtime import sha256, whole_file
from stages.select.pairs import ROWS, Pairs, Table
from stages.select.settings import Step
from stages.select.step import Change

VERSION = 1


@dataclass(frozen=True)
class Tally:
    """What a step did to the training pairs. Of those that it left: `relabelled` ones have another probability than
    before, `exchanged` ones another preferred image, `reweighted` ones another weight, and `ties` a probability of 1/2.
    """

    step: str
    removed: int
    relabelled: int
    exchanged: int
    reweighted: int
    ties: int
    left: int


@dataclass(frozen=True)
class Selected:
    """The pairs that are left, and the tally of every step."""

    pairs: Pairs
    entered: int
    tallies: list[Tally]


def select(pairs: Pairs, steps: Sequence[Step]) -> Selected:
    """Apply the steps one after another; raises InputError where one refuses the pairs or leaves none."""
    entered, tallies = len(pairs), []
    for step in steps:
        try:
            change = step.module.apply(pairs, step.settings)
        except ValueError as error:
            raise InputError(f"{step.where} ({step.kind}): {error}") from None
        before, pairs = pairs, _changed(pairs, change, step)
        if not len(pairs):
            raise InputError(f"{step.where} ({step.kind}): nothing left of {len(before)} training pairs")
        tallies.append(_tally(step, before, change.keep, pairs))
    return Selected(pairs, entered, tallies)


def write(selected: Selected, table: Table, pairs: Path, manifest: Path) -> dict[str, int]:
    """Write the table of pairs that is left, piece by piece, then the counts; returns the numbers of pairs by split.

    Pairs for validation pass as they are.
    """
    weighed = bool((selected.pairs.weight != 1).any())
    schema = tables.JUDGED_PAIRS if weighed and table.schema is tables.PAIRS else table.schema
    splits: dict[str, int] = {}
    with whole_file(manifest) as partial, whole_file(pairs) as made:
        tables.write(made, _rows(selected.pairs, table, schema, splits), schema)
        content = {
            "version": VERSION,
            "in": selected.entered,
            "steps": [asdict(tally) for tally in selected.tallies],
            "out": len(selected.pairs),
            "splits": dict(sorted(splits.items())),
            "outputs": {pairs.name: {"sha256": sha256(made), "bytes": made.stat().st_size}},
        }
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return splits


def _changed(pairs: Pairs, change: Change, step: Step) -> Pairs:
    """The pairs after a change. Raises InputError for invalid labels, weights or mask: a fault of the step."""
    for name, values, sound in (
        ("keep", change.keep, lambda v: v.dtype == bool),
        ("preference", change.preference, lambda v: bool(((v >= 0) & (v <= 1)).all())),
        ("weight", change.weight, lambda v: bool(((v >= 0) & np.isfinite(v)).all())),
    ):
        if values is not None and not (values.shape == (len(pairs),) and sound(values)):
            raise InputError(f"{step.where} ({step.kind}): gives no valid {name} for {len(pairs)} pairs")
    return pairs.changed(change.keep, change.preference, change.weight)


def _tally(step: Step, before: Pairs, keep: np.ndarray | None, after: Pairs) -> Tally:
    old = before if keep is None else before.changed(keep, None, None)
    winners = [np.sign(pairs.preference - 0.5) for pairs in (old, after)]
    return Tally(
        step.kind,
        removed=len(before) - len(after),
        relabelled=int((old.preference != after.preference).sum()),
        exchanged=int((winners[0] * winners[1] < 0).sum()),
        reweighted=int((old.weight != after.weight).sum()),
        ties=int((winners[1] == 0).sum()),
        left=len(after),
    )


def _rows(pairs: Pairs, table: Table, schema: pa.Schema, splits: dict[str, int]) -> Iterator[pa.Table]:
    """The table's rows that are left, with what the steps made of them, in its order; counts them by split."""
    start = 0
    for part in tables.stream(table.path, table.schema, ROWS):
        end = start + len(part)
        mine = slice(*np.searchsorted(pairs.row, [start, end]))
        kept = part["split"].to_numpy() != "train"
        preference = part["preference"].to_numpy().copy()
        weight = part["weight"].to_numpy().copy() if "weight" in part.column_names else np.ones(len(part))
        places = pairs.row[mine] - start
        kept[places], preference[places], weight[places] = True, pairs.preference[mine], pairs.weight[mine]
        columns = {name: part[name] for name in part.column_names} | {"preference": pa.array(preference)}
        if "weight" in schema.names:
            nobody = pa.array([""] * len(part), pa.string())
            columns |= {"weight": pa.array(weight), "annotator": columns.get("annotator", nobody)}
        left = pa.table([columns[name] for name in schema.names], schema=schema).filter(pa.array(kept))
        for split, count in _counts(left):
            splits[split] = splits.get(split, 0) + count
        start = end
        yield left


def _counts(part: pa.Table) -> Iterator[tuple[str, int]]:
    for found in part["split"].value_counts().to_pylist():
        yield found["values"], found["counts"]


def counts(selected: Selected, splits: Mapping[str, int]) -> dict[str, float]:
    """Numbers for the record of the job."""
    found: dict[str, float] = {"in": selected.entered, "out": len(selected.pairs)}
    found |= {f"{split}_pairs": count for split, count in splits.items()}
    return found | {f"{n}_{tally.step}_removed": tally.removed for n, tally in enumerate(selected.tallies)}
