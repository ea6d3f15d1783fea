"""From the measurements of a study to its findings: estimates, paired differences, claims, gaps between curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stages.measure.settings import PASSED
from stages.report import agreement, best, claims, curves, gaps
from stages.report.claims import Draws, Interval, Outcome
from stages.report.curves import Curve
from stages.report.findings import Finding, Findings
from stages.report.look import BASE, Look
from stages.report.measurements import Measurements, Point
from stages.report.settings import ReportStudy

NOWHERE = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Bootstrap:
    """The draws that every interval of the page shares."""

    draws: Draws
    level: float

    @classmethod
    def of(cls, study: ReportStudy, evaluation: Measurements) -> Bootstrap:
        """As many resamples as the study asks for, from its seed."""
        seeds = study.report.resample == "prompts_and_seeds"
        draws = Draws.of(len(evaluation.prompts), study.report.bootstrap, study.study.seed, seeds)
        return cls(draws, study.report.interval)


def find(study: ReportStudy, look: Look, evaluation: Measurements) -> Findings:
    """Every finding that the study has data for."""
    asked = _Asked(study, look, evaluation, Bootstrap.of(study, evaluation))
    rows = (
        *asked.estimates(), *asked.differences(), *asked.raises(), *asked.trades(), *asked.best(),
        *asked.above(), *asked.parts_company(), *asked.gaps, *asked.best_gaps(), *asked.ablations(),
        *asked.agreement(),
    )  # fmt: skip
    return Findings(rows, study.study.reference)


@dataclass(frozen=True)
class _Asked:
    """The measurements, and one method per kind of finding."""

    study: ReportStudy
    look: Look
    evaluation: Measurements
    bootstrap: Bootstrap

    def estimates(self) -> Iterator[Finding]:
        """Every metric of every point.

        For metrics of a whole set of images (FID, ...) the interval is the mean over the seeds of those that `measure`
        found, which is what it would be if the seeds erred alike: not too narrow.
        """
        for (point, metric), interval in self.evaluation.summaries.items():
            per_seed: tuple[float, ...] = ()
            if (point, metric) in self.evaluation.arrays:
                scores = self.evaluation.arrays[point, metric]
                interval = Interval.of(claims.means(self.bootstrap.draws, scores), self.bootstrap.level)
                per_seed = tuple(claims.average(row) for row in scores)
            yield self._of_point("estimate", point, metric, interval, per_seed=per_seed)

    def differences(self) -> Iterator[Finding]:
        """Paired differences of every metric with scores per prompt: against the base, and against the reference method
        under the same strategy and setting, on the training seeds that both have.
        """
        arrays = self.evaluation.arrays
        for point, other, name in self._pairs():
            seeds = None if name == BASE else self._shared_seeds(point.method, name)
            for metric in self.evaluation.metrics:
                if (point, metric) in arrays and (other, metric) in arrays:
                    mine, theirs = (self._scores(one, metric, seeds) for one in (point, other))
                    statistic = claims.difference(self.bootstrap.draws, mine, theirs)
                    interval = Interval.of(statistic, self.bootstrap.level)
                    yield self._of_point("difference", point, metric, interval, against=name)

    def raises(self) -> Iterator[Finding]:
        """Tuning with the reference method raises every reward and lowers every diversity."""
        tuned = curves.tuned_point(self.look, self.evaluation, self.study.study.reference)
        if tuned is None:
            return
        for axis, sign in self._directions():
            mine, base = self.evaluation.scores(tuned, axis), self.evaluation.scores(self.evaluation.base, axis)
            yield self._change("raises", tuned, BASE, axis, mine, base, sign)

    def trades(self) -> Iterator[Finding]:
        """The leading curve of every method moves every metric one way from the tuned network to the base."""
        for method in self.look.methods:
            curve = curves.leading(self.look, self.evaluation, method)
            if curve is None or len(curve.points) < 3:
                continue
            for axis, sign in self._directions():
                path = [self.evaluation.scores(point, axis) for point in curve.points]
                outcome = claims.monotone(self.bootstrap.draws, self.bootstrap.level, path, -sign)
                yield _finding("trade", method, curve.strategy.name, method, (axis,), outcome)

    def best(self) -> Iterator[Finding]:
        """The candidate's leading curve has more reward than the reference's at no less diversity.

        The main pair is tested alone, all others together; where none is named, all of them together.
        """
        mine, other = (self._leading(name) for name in (self.study.report.candidate, self.study.study.reference))
        if mine is None or other is None or mine == other:
            return
        report = self.study.report
        pairs = [(reward, diversity) for reward in report.rewards for diversity in report.diversities]
        outcomes = {pair: self._best(mine, other, *pair) for pair in pairs}
        others = [pair for pair in pairs if pair != report.main_pair]
        counted = best.together([outcomes[pair] for pair in others], self.bootstrap.level)
        outcomes |= dict(zip(others, counted, strict=True))
        for pair in pairs:
            passed = (pair[0], f"{pair[1]}{PASSED}")
            if self._measured(passed[1], [*mine.points, *other.points, self.evaluation.base]):
                among = self._best(mine, other, *passed)
                yield _finding("best_passed", mine.method, mine.strategy.name, other.method, passed, among)
            found = _finding("best", mine.method, mine.strategy.name, other.method, pair, outcomes[pair])
            p = "" if pair == report.main_pair else f", {found.p_adjusted:.2g} counted together with the others (Holm)"
            yield replace(found, main=pair == report.main_pair, note=f"p = {found.p:.2g}{p}")

    def _measured(self, metric: str, points: Iterable[Point]) -> bool:
        """Whether every one of the points has scores of a metric."""
        return all((point, metric) in self.evaluation.arrays for point in points)

    def _best(self, mine: Curve, other: Curve, reward: str, diversity: str) -> Outcome:
        base = self.evaluation.base
        sides = (
            [(self.evaluation.scores(p, diversity), self.evaluation.scores(p, reward)) for p in points]
            for points in (mine.points, other.points, [base])
        )
        one, two, (limit,) = sides
        return best.more_at_no_less(self.bootstrap.draws, self.bootstrap.level, one, two, limit)

    def above(self) -> Iterator[Finding]:
        """The candidate's leading curve lies above the reference's at equal diversity."""
        candidate, leading = self.study.report.candidate, self.look.leading
        for gap in self.gaps if leading else ():
            if leading and (gap.method, gap.strategy) == (candidate, leading.name):
                yield replace(gap, about="above")

    def parts_company(self) -> Iterator[Finding]:
        """Long training of the reference method raises the training reward and lowers the true one, tuned only."""
        if self.study.report.long is None or self.study.truth is None:
            return
        names = (self.study.study.reference, self.study.report.long)
        short, long = (curves.tuned_point(self.look, self.evaluation, name) for name in names)
        if short is None or long is None:
            return
        shared = self._shared_seeds(long.method, short.method)
        for axis, sign in ((self.study.study.reward, 1), (self.study.truth, -1)):
            mine, other = (self._scores(point, axis, shared) for point in (long, short))
            yield self._change("parts_company", long, short.method, axis, mine, other, sign)

    @cached_property
    def gaps(self) -> tuple[Finding, ...]:
        """The mean reward gap of every other curve to the reference's leading one."""
        reference = self._leading(self.study.study.reference)
        if reference is None:
            return ()
        every = [
            *curves.base_curves(self.look, self.evaluation),
            *curves.strategies(self.look, self.evaluation, self.look.methods),
        ]
        others = [curve for curve in every if curve != reference and len(curve.points) > 1]
        return tuple(gap for curve in others for gap in self._against("gap", curve, reference))

    def best_gaps(self) -> Iterator[Finding]:
        """The best-reward gap of every other method's leading curve to the reference's, each pair for itself."""
        reference = self._leading(self.study.study.reference)
        for method in self.look.methods if reference else ():
            mine = self._leading(method)
            if mine is None or reference is None or mine == reference:
                continue
            for reward in self.study.report.rewards:
                for diversity in self.study.report.diversities:
                    outcome = self._best(mine, reference, reward, diversity)
                    axes = (reward, diversity)
                    yield _finding("best_gap", method, mine.strategy.name, reference.method, axes, outcome)

    def ablations(self) -> Iterator[Finding]:
        """The same gap of every variant of the candidate to the candidate, on the training seeds that both have."""
        candidate = self._leading(self.study.report.candidate)
        for name in self.study.report.ablations if candidate else ():
            curve = self._leading(name)
            if curve is not None and candidate is not None:
                yield from self._against("ablation", curve, candidate, self._shared_seeds(name, candidate.method))

    def agreement(self) -> Iterator[Finding]:
        """The rank correlation of every pair of judges, on the images of the base and of every tuned network."""
        judges = tuple(self.study.judges)
        for kind, point, (judge, other), statistic in agreement.statistics(
            judges, self.look, self.evaluation, self.bootstrap.draws
        ):
            interval = Interval.of(statistic, self.bootstrap.level)
            yield self._of_point(kind, point, judge, interval, against=other)

    def _leading(self, method: str) -> Curve | None:
        return curves.leading(self.look, self.evaluation, method)

    def _pairs(self) -> Iterator[tuple[Point, Point, str]]:
        """Every point with the base, then with the same setting of the reference method."""
        reference = self.study.study.reference
        for point in self.evaluation.points:
            if point != self.evaluation.base:
                yield point, self.evaluation.base, BASE
            same = Point(reference, point.strategy, point.value)
            if point.method not in (BASE, reference) and same in self.evaluation.labels:
                yield point, same, reference

    def _of_point(
        self, about: str, point: Point, metric: str, interval: Interval, against: str = "",
        per_seed: tuple[float, ...] = (),
    ) -> Finding:  # fmt: skip
        cost = self.evaluation.costs[point]
        return Finding(
            about, point.method, point.strategy, metric, interval.mean, interval.low, interval.high, against=against,
            setting=self.evaluation.labels[point], value=point.value, per_seed=per_seed,
            seeds=len(self.evaluation.seeds[point.method]), n_prompts=len(self.evaluation.prompts), nfe=cost.nfe,
            seconds=cost.seconds,
        )  # fmt: skip

    def _change(
        self, about: str, point: Point, against: str, axis: str, mine: np.ndarray, other: np.ndarray, sign: int
    ) -> Finding:
        outcome = claims.changes(self.bootstrap.draws, self.bootstrap.level, mine, other, sign)
        return _finding(about, point.method, point.strategy, against, (axis,), outcome)

    def _against(
        self, about: str, mine: Curve, other: Curve, seeds: tuple[int, ...] | None = None
    ) -> Iterator[Finding]:
        """The gap of the frontier of one curve to that of another, reward by reward and diversity by diversity."""
        draws, level = self.bootstrap.draws, self.bootstrap.level
        for reward in self.study.report.rewards:
            for diversity in self.study.report.diversities:
                sides = (
                    [(self._scores(p, diversity, seeds), self._scores(p, reward, seeds)) for p in curve.points]
                    for curve in (mine, other)
                )
                outcome = gaps.lies_above(draws, level, *sides)
                yield _finding(about, mine.method, mine.strategy.name, other.method, (reward, diversity), outcome)

    def _shared_seeds(self, mine: str, other: str) -> tuple[int, ...] | None:
        """Training seeds that two methods both have; None, for all seeds of each, where they share none."""
        seeds = self.evaluation.seeds
        return tuple(sorted(set(seeds[mine]) & set(seeds[other]))) or None

    def _scores(self, point: Point, metric: str, seeds: tuple[int, ...] | None) -> np.ndarray:
        """Scores (seeds, prompts) of a point, of these training seeds only; the base has none to choose from."""
        scores = self.evaluation.scores(point, metric)
        if seeds is None or point.method == BASE:
            return scores
        return scores[[self.evaluation.seeds[point.method].index(seed) for seed in seeds]]

    def _directions(self) -> list[tuple[str, int]]:
        """Every axis with the direction in which tuning is expected to move it."""
        rewards, diversities = self.study.report.rewards, self.study.report.diversities
        return [(name, 1) for name in rewards] + [(name, -1) for name in diversities]


def _finding(about: str, method: str, strategy: str, against: str, axes: tuple[str, ...], outcome: Outcome) -> Finding:
    interval, area = outcome.interval, outcome.area or NOWHERE
    return Finding(
        about, method, strategy, axes[0], interval.mean, interval.low, interval.high, against=against,
        at_equal=axes[1] if len(axes) > 1 else None, state=outcome.state.value, per_seed=outcome.per_seed,
        note=outcome.note, area=area.mean, area_low=area.low, area_high=area.high, detectable=outcome.detectable,
        p=outcome.p, p_adjusted=outcome.p_adjusted,
    )  # fmt: skip
