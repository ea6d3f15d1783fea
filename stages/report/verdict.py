"""The three claims of a study, put to its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stages.report import claims, curves
from stages.report.claims import Claim, Finding
from stages.report.load import Evaluation, Point
from stages.report.settings import ReportStudy


@dataclass(frozen=True)
class Bootstrap:
    """The draws of prompts that every interval of the page shares."""

    weights: np.ndarray
    level: float

    @classmethod
    def of(cls, study: ReportStudy, evaluation: Evaluation) -> Bootstrap:
        """As many resamples as the study asks for, from its seed."""
        weights = claims.prompt_weights(len(evaluation.prompts), study.report.bootstrap, study.study.seed)
        return cls(weights, study.report.interval)


@dataclass(frozen=True)
class Rival:
    """A curve's mean reward gap to the reference method's combined generation, one finding a (reward, diversity)."""

    method: str
    strategy: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Verdict:
    """What the page states. A claim is None where the study has not the runs or strategies that it needs.

    `raises`: the reference method raises every reward and lowers every diversity. `trade`: its combined generation
    moves every metric one way from k = 0 to k = T; `trades` the same for every method. `above`: the candidate's
    combined generation lies above the reference's at equal diversity; `rivals` the same gap for every other curve.
    """

    raises: Claim | None
    trade: Claim | None
    above: Claim | None
    trades: Mapping[str, Claim]
    rivals: tuple[Rival, ...]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Those of the three that could be put to the data."""
        return tuple(claim for claim in (self.raises, self.trade, self.above) if claim)


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
        trades=trades,
        rivals=rivals,
    )


def _raises(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap) -> Claim | None:
    tuned = curves.tuned_point(study, evaluation, study.study.reference)
    if tuned is None:
        return None
    weights, level = bootstrap.weights, bootstrap.level
    findings = []
    for axis, sign in _directions(study):
        mine, base = evaluation.scores(tuned, axis), evaluation.scores(evaluation.base, axis)
        findings.append(claims.changes(weights, level, axis, mine, base, sign))
    return Claim("raises", tuple(findings))


def _trade(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap, method: str) -> Claim | None:
    curve = curves.combined(study, evaluation, method)
    if curve is None or len(curve.points) < 3:
        return None
    findings = []
    for axis, sign in _directions(study):
        path = [evaluation.scores(point, axis) for point in curve.points]
        findings.append(claims.monotone(bootstrap.weights, bootstrap.level, axis, path, -sign))
    return Claim("trade", tuple(findings))


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
    study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap, mine: tuple[Point, ...], other: tuple[Point, ...]
) -> tuple[Finding, ...]:
    return tuple(
        claims.lies_above(
            bootstrap.weights,
            bootstrap.level,
            (reward, diversity),
            curves.scores(evaluation, mine, diversity, reward),
            curves.scores(evaluation, other, diversity, reward),
        )
        for reward in study.report.rewards
        for diversity in study.report.diversities
    )


def _directions(study: ReportStudy) -> list[tuple[str, int]]:
    """Every axis with the direction in which tuning is expected to move it."""
    rewards, diversities = study.report.rewards, study.report.diversities
    return [(name, 1) for name in rewards] + [(name, -1) for name in diversities]
