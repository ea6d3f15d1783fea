"""Every point of several studies with its values, and which points no other one beats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from stages.errors import InputError
from stages.params import nearest
from stages.report import claims, gaps, load
from stages.report.claims import Draws, Interval
from stages.report.compare.sameness import require_one_evaluation
from stages.report.look import BASE, Look
from stages.report.measurements import Measurements, Point
from stages.report.settings import ReportStudy


@dataclass(frozen=True)
class Finished:
    """A finished study: its settings, its names, its measurements."""

    study: ReportStudy
    look: Look
    evaluation: Measurements

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.study.study.name


@dataclass(frozen=True)
class Value:
    """The value of a metric at a point, and its paired difference to the base of the first study."""

    estimate: Interval
    difference: Interval


@dataclass(frozen=True)
class Compared:
    """Studies of one evaluation, the axes that they are shown by, and the resamples of prompts that they share."""

    studies: Sequence[Finished]
    identity: str
    rewards: Sequence[str]
    diversities: Sequence[str]
    draws: Draws
    level: float

    @property
    def axes(self) -> tuple[str, ...]:
        """Rewards, then diversities."""
        return (*self.rewards, *self.diversities)

    @property
    def pair(self) -> tuple[str, str]:
        """The reward and the diversity by which points are said to be beaten: the first of each."""
        return self.rewards[0], self.diversities[0]

    @cached_property
    def values(self) -> Mapping[tuple[str, Point, str], Value]:
        """By study, point and metric."""
        first = self.studies[0].evaluation
        found = {}
        for one in self.studies:
            for point in one.evaluation.points:
                for axis in self.axes:
                    scores, base = one.evaluation.scores(point, axis), first.scores(first.base, axis)
                    statistics = claims.means(self.draws, scores), claims.difference(self.draws, scores, base)
                    found[one.name, point, axis] = Value(*(Interval.of(each, self.level) for each in statistics))
        return found

    @cached_property
    def unbeaten(self) -> frozenset[tuple[str, Point]]:
        """The points of which no point of any study has more of one metric of `pair` and no less of the other."""
        reward, diversity = self.pair

        def mean(key: tuple[str, Point], axis: str) -> float:
            return self.values[*key, axis].estimate.mean

        keys = [(one.name, point) for one in self.studies for point in one.evaluation.points]
        places = {key: (mean(key, diversity), mean(key, reward)) for key in keys}
        best = set(gaps.unbeaten(places.values()))
        return frozenset(key for key, place in places.items() if place in best)


def read(
    studies: Sequence[ReportStudy],
    results: Sequence[Path],
    rewards: Sequence[str] = (),
    diversities: Sequence[str] = (),
) -> Compared:
    """Read the measurements of studies whose results stand in the folders `results`.

    Axes are those named, or those that the reports of all studies have. Raises InputError for studies of different
    evaluations, of one name, without an axis in common, and for an axis that one of them was not measured by.
    """
    _refuse_equal_names([study.study.name for study in studies])
    identity = require_one_evaluation([folder / "measures" / f"{BASE}.parquet" for folder in results])
    chosen = _axes(studies, rewards, diversities)
    finished = []
    for study, folder in zip(studies, results, strict=True):
        look = Look.of(study)
        found = load.evaluation(study, look, folder / "measures", folder / "samples")
        _require_axes(study.study.name, found, chosen[0] + chosen[1])
        finished.append(Finished(study, look, found))
    report, prompts = studies[0].report, len(finished[0].evaluation.prompts)
    draws = Draws.of(prompts, report.bootstrap, studies[0].study.seed, report.resample == "prompts_and_seeds")
    return Compared(finished, identity, *chosen, draws, report.interval)


def rows(compared: Compared) -> pd.DataFrame:
    """The columns of `points.csv`: a row per study, point and metric. `difference` is to the base of the first study,
    prompt by prompt; `unbeaten` is 1 for the points in `Compared.unbeaten`.
    """
    return pd.DataFrame(_rows(compared))


def _rows(compared: Compared) -> Iterator[dict[str, object]]:
    for one in compared.studies:
        for point in one.evaluation.points:
            for axis in compared.axes:
                value = compared.values[one.name, point, axis]
                yield {
                    "study": one.name, "evaluation": compared.identity,
                    "method": point.method, "strategy": point.strategy,
                    "setting": one.evaluation.labels[point], "seeds": len(one.evaluation.seeds[point.method]),
                    "n_prompts": len(one.evaluation.prompts), "metric": axis, "mean": value.estimate.mean,
                    "low": value.estimate.low, "high": value.estimate.high, "difference": value.difference.mean,
                    "difference_low": value.difference.low, "difference_high": value.difference.high,
                    "unbeaten": int((one.name, point) in compared.unbeaten),
                }  # fmt: skip


def _refuse_equal_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name!r} is the name of two of the studies, expected every study once")


def _axes(
    studies: Sequence[ReportStudy], rewards: Sequence[str], diversities: Sequence[str]
) -> tuple[list[str], list[str]]:
    found = []
    for kind, named in (("rewards", rewards), ("diversities", diversities)):
        every = [getattr(study.report, kind) for study in studies]
        shared = [name for name in every[0] if all(name in other for other in every)]
        if not named and not shared:
            raise InputError(f"report.{kind}: the studies have none in common; name one with --{kind}")
        found.append(list(named) or shared)
    return found[0], found[1]


def _require_axes(name: str, found: Measurements, axes: Sequence[str]) -> None:
    for axis in axes:
        known = {metric for point, metric in found.arrays if point == found.base}
        if axis not in known:
            raise InputError(f"study {name!r} was not measured by {axis!r}{nearest(axis, known)}")
        for point in found.points:
            found.scores(point, axis)
