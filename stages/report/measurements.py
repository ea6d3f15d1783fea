"""The measurements of a study as arrays, which the statistics and the figures work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np

from stages.errors import InputError
from stages.measure.settings import PASSED
from stages.report.claims import Interval
from stages.report.look import BASE


@dataclass(frozen=True, order=True)
class Point:
    """One way of making images: a method (`base` for none), a strategy and the value of its one free setting."""

    method: str
    strategy: str
    value: float


@dataclass(frozen=True)
class Cost:
    """Means per image of one point: network evaluations, seconds and reward queries; and the number of images, over all
    seeds. `searched` are the rewards that were queried while images were made: judges of their own search.
    `nfe_backward` are those among the network evaluations that carried gradient.
    """

    nfe: float
    seconds: float
    images: int
    queries: float = 0.0
    searched: tuple[str, ...] = ()
    nfe_backward: float = 0.0


@dataclass(frozen=True)
class Series:
    """A term of a training log: optimizer steps, ascending, and values."""

    steps: np.ndarray
    values: np.ndarray


Log: TypeAlias = Mapping[str, Mapping[str, Series]]
"""Run to term to its series."""


@dataclass(frozen=True)
class Measurements:
    """Every measurement of a study.

    `arrays` holds, for metrics with one score per prompt, means over the samples of a prompt: (training seeds,
    prompts), NaN where a prompt has none. `summaries` holds what `measure` summarised, averaged over training seeds.
    `base` is the base model as the end of the leading strategy's curves; `identity` the id of the evaluation (prompts,
    noise, judges, formulas) that all numbers share; `labels` the settings as the samples name them (`k=10`). `images`
    holds, of points that are no curve's (the base, tuned networks), the scores that judges give single images:
    (training seeds, prompts, samples), NaN where an image has none. `digests` has that of every model that judged or
    was searched with, by name: two names may stand for one model.
    """

    prompts: tuple[str, ...]
    seeds: Mapping[str, tuple[int, ...]]
    arrays: Mapping[tuple[Point, str], np.ndarray]
    summaries: Mapping[tuple[Point, str], Interval]
    costs: Mapping[Point, Cost]
    labels: Mapping[Point, str]
    base: Point
    identity: str
    steps: int
    images: Mapping[tuple[Point, str], np.ndarray] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def same_model(self, one: str, other: str) -> bool:
        """Whether two names of models of the study stand for one model, as far as their digests are known."""
        return one == other or (one in self.digests and self.digests[one] == self.digests.get(other))

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Every way of making images that was measured, base first, then as in the tables."""
        return tuple(sorted(self.labels, key=lambda point: point.method != BASE))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, in the order of the tables."""
        return tuple(dict.fromkeys(metric for _, metric in self.summaries))

    def values(self, method: str, strategy: str) -> tuple[float, ...]:
        """The measured settings of one strategy of one method, ascending."""
        return tuple(sorted(p.value for p in self.labels if (p.method, p.strategy) == (method, strategy)))

    def scores(self, point: Point, metric: str) -> np.ndarray:
        """Scores of shape (training seeds, prompts), seeds ascending, NaN where a prompt has none.

        A metric of images that pass has no row where no prompt has two of them: all NaN then. Raises InputError when
        the point was not measured with any other metric.
        """
        try:
            return self.arrays[point, metric]
        except KeyError:
            if metric.endswith(PASSED) and metric in self.metrics and point in self.labels:
                return np.full((len(self.seeds[point.method]), len(self.prompts)), np.nan)
            where = f"{point.strategy} {point.value:g}"
            raise InputError(f"measures of {point.method!r}: no rows of {metric!r} for {where}") from None
