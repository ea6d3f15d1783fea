"""The job: images of the base drawn again from every index, judged, and reduced to open shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stages import tables
from stages.decided import auto
from stages.decided.draw import Drawing
from stages.decided.shares import Metric, Seen, Share, between, shares, within
from stages.encode.store import Item
from stages.errors import InputError
from stages.measure.judges import Judges
from stages.measure.samples import Metrics
from stages.measure.scored import ScoredImages, join
from stages.params import nearest
from stages.resume import State, Unit
from stages.runtime import progress
from stages.table_tensors import packed, unpacked

ROWS, COUNTS = "rows", "evaluations"


@dataclass(frozen=True)
class Outputs:
    """What the job writes: rows of prompts, shares, and what `auto` stands for."""

    pairs: Path
    shares: Path
    auto: Path


@dataclass(frozen=True)
class Decision:
    """The base, its judges and the metrics of the study."""

    drawing: Drawing
    judges: Judges
    metrics: Metrics

    def rows(self, prompts: Sequence[Item]) -> tuple[list[dict[str, object]], list[int]]:
        """Rows of `tables.DECIDED` of some prompts, and the evaluations of each draw: the first, then the indices."""
        size, timesteps = self.drawing.settings.samples, self.drawing.timesteps()
        metrics: Sequence[Metric] = tuple(self.metrics.prompt.values())
        first: list[Seen] = []
        wholes: list[Mapping[Any, float]] = []
        found: list[dict[str, object]] = []
        spent = []
        for drawn in self.drawing.draw(prompts):
            spent.append(drawn.evaluations)
            seen = self._seen(drawn.pixels, prompts, size)
            if drawn.index is None:
                first, wholes = seen, [between(one, metrics) for one in seen]
                continue
            for item, one, whole, again in zip(prompts, first, wholes, seen, strict=True):
                parts = within(one, again, metrics)
                head = {"index": drawn.index, "timestep": timesteps[drawn.index], "prompt_id": item.item_id}
                found += [
                    head | {"kind": key[0], "quantity": key[1], "within": part, "between": whole[key]}
                    for key, part in parts.items() if key in whole
                ]  # fmt: skip
        return found, spent

    def _seen(self, pixels: np.ndarray, prompts: Sequence[Item], size: int) -> list[Seen]:
        """The images of each prompt, judged."""
        batch, texts = self.judges.settings.batch_size, [item.text for item in prompts for _ in range(size)]
        judged = [
            self.judges.score(pixels[at : at + batch], texts[at : at + batch]) for at in range(0, len(texts), batch)
        ]
        images = join(judged)
        return [self._of(images.take(range(at, at + size))) for at in range(0, len(texts), size)]

    def _of(self, images: ScoredImages) -> Seen:
        scores = {name: v for metric in self.metrics.image.values() for name, v in metric(images).items()}
        return Seen(images, scores)


def decide(
    decision: Decision, outputs: Outputs, resamples: int, level: float, state: State | None = None
) -> auto.Resolved:
    """Draw, judge and write everything; groups of prompts that `state` holds are not drawn again.

    Raises InputError where the images of the named diversity differ in nothing, or it is not measured.
    """
    drawing, settings = decision.drawing, decision.drawing.settings
    groups, spent = drawing.groups(), torch.zeros(1 + len(settings.grid(drawing.steps)), dtype=torch.int64)

    def make(prompts: Sequence[Item]) -> Unit:
        rows, counts = decision.rows(prompts)
        return {ROWS: packed(tables.table(tables.DECIDED, rows)), COUNTS: torch.tensor(counts)}

    def parts() -> Iterator[pa.Table]:
        for unit in progress((state or State()).results("decided", groups, make), len(groups), "decided"):
            spent.add_(unit[COUNTS])
            yield unpacked(unit[ROWS])

    found = pa.concat_tables(parts())
    every = shares(found.to_pylist(), resamples, level, drawing.seed)
    named = _named(every, found, settings.diversity)
    prompts = tuple(item.item_id for group in groups for item in group)
    resolved = auto.resolve(named, drawing.steps, settings.diversity, settings.open, settings.k_open)
    resolved = replace(resolved, evaluations=int(spent.sum()), prompts=prompts)
    nfe = dict(zip(settings.grid(drawing.steps), spent[1:].tolist(), strict=True))
    tables.write(outputs.pairs, found, tables.DECIDED)
    tables.write(outputs.shares, _table(every, drawing.steps, nfe), tables.DECIDED_SHARES)
    resolved.write(outputs.auto)
    return resolved


def _named(every: Sequence[Share], rows: pa.Table, diversity: str) -> dict[int, float]:
    """The share of the named diversity by index."""
    found = {one.index: one.interval.mean for one in every if (one.kind, one.quantity) == ("diversity", diversity)}
    if found:
        return found
    known = {row["quantity"] for row in rows.select(["kind", "quantity"]).to_pylist() if row["kind"] == "diversity"}
    if diversity in known:
        raise InputError(f"decided.diversity: the base's images of one prompt do not differ in {diversity!r}")
    raise InputError(f"decided.diversity: {diversity!r} is not measured{nearest(diversity, known)}")


def _table(every: Sequence[Share], steps: int, nfe: Mapping[int, int]) -> pa.Table:
    rows: list[dict[str, object]] = [
        {"index": one.index, "steps": steps, "timestep": one.timestep, "kind": one.kind, "quantity": one.quantity,
         "share": one.interval.mean, "low": one.interval.low, "high": one.interval.high,
         "n_prompts": one.interval.n_prompts, "nfe": nfe[one.index]} for one in every
    ]  # fmt: skip
    return tables.table(tables.DECIDED_SHARES, rows)
