"""The claims of a study, put to its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stages.report import claims, curves, gaps
from stages.report.claims import Claim, Draws, Finding
from stages.report.load import BASE, Evaluation, Point
from stages.report.settings import ReportStudy


@dataclass(frozen=True)
class Bootstrap:
    """The draws that every interval of the page shares."""

    draws: Draws
    level: float

    @classmethod
    def of(cls, study: ReportStudy, evaluation: Evaluation) -> Bootstrap:
        """As many resamples as the study asks for, from its seed."""
        seeds = study.report.resample == "prompts_and_seeds"
        draws = Draws.of(len(evaluation.prompts), study.report.bootstrap, study.study.seed, seeds)
        return cls(draws, study.report.interval)


@dataclass(frozen=True)
class Rival:
    """A curve's mean reward gap to the combined generation of another method (the reference, where nothing else is
    said), one finding a (reward, diversity).
    """

    method: str
    strategy: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Verdict:
    """What the page states. A claim is None where the study has not the runs or strategies that it needs.

    `raises`: the reference method raises every reward and lowers every diversity. `trade`: its combined generation
    moves every metric one way from k = 0 to k = T; `trades` the same for every method. `above`: the candidate's
    combined generation lies above the reference's at equal diversity; `rivals` the same gap for every other curve.
    `parts_company`: long training raises the training reward and lowers the true one. `ablations`: the gap of the
    combined generation of each variant of the candidate to the candidate's own, on the training seeds that both have.
    """

    raises: Claim | None
    trade: Claim | None
    above: Claim | None
    parts_company: Claim | None
    trades: Mapping[str, Claim]
    rivals: tuple[Rival, ...]
    ablations: tuple[Rival, ...]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Those that could be put to the data."""
        return tuple(claim for claim in (self.raises, self.trade, self.above, self.parts_company) if claim)


def verdict(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap) -> Verdict:
    """Test every claim that the study has data for."""
    reference, candidate = study.study.reference, study.report.candidate
    trades = {m: claim for m in study.methods if (claim := _trade(study, evaluation, bootstrap, m))}
    rivals = _rivals(study, evaluation, bootstrap)
    leading = curves.combined(study, evaluation, candidate) if candidate != reference else None
    above = next((r for r in rivals if leading and (r.method, r.strategy) == (candidate, leading.strategy)), None)
    return Verdict(
        raises=_raises(study, evaluation, bootstrap),
        trade=trades.get(reference),
        above=Claim("above", above.findings) if above else None,
        parts_company=_parts_company(study, evaluation, bootstrap),
        trades=trades,
        rivals=rivals,
        ablations=_ablations(study, evaluation, bootstrap),
    )


def _raises(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap) -> Claim | None:
    tuned = curves.tuned_point(study, evaluation, study.study.reference)
    if tuned is None:
        return None
    draws, level = bootstrap.draws, bootstrap.level
    findings = []
    for axis, sign in _directions(study):
        mine, base = evaluation.scores(tuned, axis), evaluation.scores(evaluation.base, axis)
        findings.append(claims.changes(draws, level, axis, mine, base, sign))
    return Claim("raises", tuple(findings))


def _trade(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap, method: str) -> Claim | None:
    curve = curves.combined(study, evaluation, method)
    if curve is None or len(curve.points) < 3:
        return None
    findings = []
    for axis, sign in _directions(study):
        path = [evaluation.scores(point, axis) for point in curve.points]
        findings.append(claims.monotone(bootstrap.draws, bootstrap.level, axis, path, -sign))
    return Claim("trade", tuple(findings))


def _parts_company(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap) -> Claim | None:
    """Long training of the reference method against its usual training, both tuned only."""
    if study.report.long is None or study.truth is None:
        return None
    short, long = (curves.tuned_point(study, evaluation, m) for m in (study.study.reference, study.report.long))
    if short is None or long is None:
        return None
    shared = _shared_seeds(evaluation, long.method, short.method)
    findings = []
    for axis, sign in ((study.study.reward, 1), (study.truth, -1)):
        mine, other = (_scores(evaluation, point, axis, shared) for point in (long, short))
        findings.append(claims.changes(bootstrap.draws, bootstrap.level, axis, mine, other, sign))
    return Claim("parts_company", tuple(findings))


def _ablations(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap) -> tuple[Rival, ...]:
    candidate = curves.combined(study, evaluation, study.report.candidate)
    if candidate is None:
        return ()
    found = []
    for name in study.report.ablations:
        curve = curves.combined(study, evaluation, name)
        if curve is not None:
            shared = _shared_seeds(evaluation, name, candidate.method)
            findings = _against(study, evaluation, bootstrap, curve.points, candidate.points, shared)
            found.append(Rival(name, curve.strategy, findings))
    return tuple(found)


def _shared_seeds(evaluation: Evaluation, mine: str, other: str) -> tuple[int, ...] | None:
    """Training seeds that two methods both have; None, for all seeds of each, where they share none."""
    return tuple(sorted(set(evaluation.seeds[mine]) & set(evaluation.seeds[other]))) or None


def _scores(evaluation: Evaluation, point: Point, metric: str, seeds: tuple[int, ...] | None) -> np.ndarray:
    """Scores (seeds, prompts) of a point, of these training seeds only; the base has none to choose from."""
    scores = evaluation.scores(point, metric)
    if seeds is None or point.method == BASE:
        return scores
    return scores[[evaluation.seeds[point.method].index(seed) for seed in seeds]]


def _rivals(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap) -> tuple[Rival, ...]:
    reference = curves.combined(study, evaluation, study.study.reference)
    if reference is None:
        return ()
    found = [curves.guidance(evaluation), *curves.strategies(study, evaluation, study.methods)]
    return tuple(
        Rival(curve.method, curve.strategy, _against(study, evaluation, bootstrap, curve.points, reference.points))
        for curve in found
        if curve != reference and len(curve.points) > 1
    )


def _against(
    study: ReportStudy,
    evaluation: Evaluation,
    bootstrap: Bootstrap,
    mine: tuple[Point, ...],
    other: tuple[Point, ...],
    seeds: tuple[int, ...] | None = None,
) -> tuple[Finding, ...]:
    """The gap of the frontier `mine` to `other`, reward by reward and diversity by diversity."""

    def points(side: tuple[Point, ...], diversity: str, reward: str) -> list[tuple[np.ndarray, np.ndarray]]:
        axes = (diversity, reward)
        found = ([_scores(evaluation, point, axis, seeds) for axis in axes] for point in side)
        return [(across, up) for across, up in found]

    return tuple(
        gaps.lies_above(
            bootstrap.draws,
            bootstrap.level,
            (reward, diversity),
            points(mine, diversity, reward),
            points(other, diversity, reward),
        )
        for reward in study.report.rewards
        for diversity in study.report.diversities
    )


def _directions(study: ReportStudy) -> list[tuple[str, int]]:
    """Every axis with the direction in which tuning is expected to move it."""
    rewards, diversities = study.report.rewards, study.report.diversities
    return [(name, 1) for name in rewards] + [(name, -1) for name in diversities]
