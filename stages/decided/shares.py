"""Open shares of what images of a prompt may differ in, from pairs of images that share a state of the sampler.

At index i of the grid, two draws of the rest of a trajectory from one state x_i are two independent images given that
state. Of a value v of an image (a reward, an attribute as a vector)

    within_i = E |v(a) - v(b)|^2 / 2   over pairs (a, b) from one state,
    between  = E |v(a) - v(a')|^2 / 2  over independent images of one prompt,

are the variance that is left given x_i and the whole variance within a prompt; of a metric m of several images (a
diversity) they are the means of m({a, b}) and m({a, a'}), less m({a, a}). The open share is the ratio of their sums
over prompts: about 1 where nothing of it is settled, 0 where everything is. Its interval resamples prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from stages import tables
from stages.measure.bootstrap import Interval, ratio_interval
from stages.measure.scored import ScoredImages, join

Kind = Literal["diversity", "attribute", "score"]
Key = tuple[Kind, str]
Metric = Callable[[ScoredImages], Mapping[str, float]]


@dataclass(frozen=True)
class Seen:
    """Images of one prompt [n] with the values of every image, by name: [n] or [n, D]."""

    images: ScoredImages
    scores: Mapping[str, np.ndarray]

    def values(self) -> dict[Key, np.ndarray]:
        """Scores and attributes [n, D] by what they are."""
        found: dict[Key, np.ndarray] = {("score", name): values for name, values in self.scores.items()}
        seen = {} if self.images.seen is None else self.images.seen.open_attributes()
        found |= {("attribute", name): values for name, values in seen.items()}
        return {key: np.asarray(values, np.float64).reshape(len(self.images), -1) for key, values in found.items()}


def within(first: Seen, again: Seen, metrics: Sequence[Metric]) -> dict[Key, float]:
    """Variance and diversity between images that share a state: image n of `first` with image n of `again`."""
    one, other = first.values(), again.values()
    found = {key: float(np.square(one[key] - other[key]).sum(1).mean() / 2) for key in one}
    pairs = [join([first.images.take([n]), again.images.take([n])]) for n in range(len(first.images))]
    return found | _above_floor(pairs, first.images, metrics)


def between(first: Seen, metrics: Sequence[Metric]) -> dict[Key, float]:
    """Variance and diversity between the independent images of one prompt."""
    found = {key: float(values.var(0, ddof=1).sum()) for key, values in first.values().items()}
    pairs = [first.images.take(pair) for pair in combinations(range(len(first.images)), 2)]
    return found | _above_floor(pairs, first.images, metrics)


def _above_floor(pairs: Sequence[ScoredImages], images: ScoredImages, metrics: Sequence[Metric]) -> dict[Key, float]:
    """Means of every metric over pairs, less that over images paired with themselves."""
    same = [images.take([n, n]) for n in range(len(images))]
    distances, floor = _mean(pairs, metrics), _mean(same, metrics)
    return {("diversity", name): distances[name] - floor[name] for name in distances if name in floor}


def _mean(pairs: Sequence[ScoredImages], metrics: Sequence[Metric]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for pair in pairs:
        for metric in metrics:
            for name, value in metric(pair).items():
                found.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in found.items() if len(values) == len(pairs)}


@dataclass(frozen=True)
class Share:
    """The open share of one quantity at one index, a row of `tables.DECIDED_SHARES`."""

    index: int
    timestep: float
    kind: Kind
    quantity: str
    interval: Interval


def shares(rows: Sequence[Mapping[str, object]], resamples: int, level: float, seed: int) -> list[Share]:
    """Shares from rows of `tables.DECIDED`, in their order; without quantities that no image of a prompt differs in."""
    groups: dict[tuple[int, float, Kind, str], list[Mapping[str, object]]] = {}
    for row in rows:
        key = (row["index"], row["timestep"], row["kind"], row["quantity"])
        groups.setdefault(key, []).append(row)  # type: ignore[arg-type]
    found = []
    for (index, timestep, kind, quantity), mine in groups.items():
        parts, wholes = (np.array([row[name] for row in mine], np.float64) for name in ("within", "between"))
        if wholes.sum() > 0:
            interval = ratio_interval(parts, wholes, [str(row["prompt_id"]) for row in mine], resamples, level, seed)
            found.append(Share(index, timestep, kind, quantity, interval))
    return found


def read(path: Path) -> tuple[list[Share], int]:
    """Shares in the table at `path`, and T; raises InputError for another table."""
    rows = tables.read(path, tables.DECIDED_SHARES).to_pylist()
    found = [
        Share(row["index"], row["timestep"], row["kind"], row["quantity"],
              Interval(row["share"], row["low"], row["high"], row["n_prompts"])) for row in rows
    ]  # fmt: skip
    return found, int(rows[0]["steps"]) if rows else 0
