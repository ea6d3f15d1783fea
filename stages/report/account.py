"""The findings of a study as a page of Markdown tables, for a reader of the repository."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stages.report import style
from stages.report.claims import Claim, Finding, Interval
from stages.report.load import Evaluation, Point
from stages.report.settings import ReportStudy
from stages.report.style import Look
from stages.report.verdict import Rival, Verdict

TITLES = {
    "raises": "1. Tuning raises the reward, and diversity collapses",
    "trade": "2. Combined generation brings diversity back",
    "above": "3. Above the reference at equal diversity",
    "parts_company": "4. Proxy and truth part company under long training",
}
"""By the key of a claim."""


def account(study: ReportStudy, evaluation: Evaluation, verdict: Verdict) -> str:
    """All claims with their parts, every curve's area to the reference's, every ablation's to the candidate's."""
    look = Look.of(study)
    reference, candidate = (style.method_name(name) for name in (study.study.reference, study.report.candidate))
    intervals = "prompts and training seeds" if study.report.resample == "prompts_and_seeds" else "prompts"
    parts = [
        f"# {study.study.name}: {candidate} and {reference}",
        f"{study.study.description}. Written by `python -m stages.report.results` from the study's measures; intervals "
        f"are {study.report.interval:.0%} bootstraps over {intervals}, in brackets; single training seeds follow.",
        _points(study, evaluation, look),
    ]
    for claim in verdict.claims:
        table = _areas(claim.findings, look) if len(claim.findings[0].axes) == 2 else _changes(claim, look)
        parts += [f"## {TITLES[claim.key]}: {claim.state.value}", table]
    if verdict.rivals:
        title = f"## Mean reward gap to {reference}'s combined generation, at equal diversity"
        parts += [title, _rivals(verdict.rivals, study, look)]
    if verdict.ablations:
        title = f"## Ablations: the same gap to {candidate}'s combined generation, on the training seeds that both have"
        parts += [title, _rivals(verdict.ablations, study, look)]
    return "\n\n".join(parts) + "\n"


def _points(study: ReportStudy, evaluation: Evaluation, look: Look) -> str:
    """The mean of every reward and diversity: the base, and every method tuned only."""
    axes = [*study.report.rewards, *study.report.diversities]
    base = [point for point in evaluation.points if point.method == "base"]
    tuned = [point for point in evaluation.points if point.strategy in study.strategies_of_kind("tuned")]
    rows = [
        [_name(evaluation, point), *(f"{np.nanmean(evaluation.scores(point, axis)):.3f}" for axis in axes)]
        for point in (*base, *tuned)
    ]
    return _table(["alone", *(look.metric(axis) for axis in axes)], rows)


def _name(evaluation: Evaluation, point: Point) -> str:
    if point.method == "base":
        return f"base, {evaluation.labels[point]}"
    return f"{style.method_name(point.method)} ({len(evaluation.seeds[point.method])} seeds)"


def _changes(claim: Claim, look: Look) -> str:
    rows = [
        [look.metric(f.axes[0]), f.state.value, _interval(f.interval), _seeds(f.per_seed), f.note]
        for f in claim.findings
    ]
    return _table(["metric", "verdict", "change", "seeds", "on the way"], rows)


def _areas(findings: Iterable[Finding], look: Look) -> str:
    rows = [
        [
            look.metric(f.axes[0]), look.metric(f.axes[1]), f.state.value, _interval(f.area), _interval(f.interval),
            _seeds(f.per_seed), f.note,
        ]
        for f in findings
    ]  # fmt: skip
    return _table(["reward", "at equal", "verdict", "area", "mean gap", "seeds", "where"], rows)


def _rivals(rivals: Sequence[Rival], study: ReportStudy, look: Look) -> str:
    """A row a curve, a column a (reward, diversity); bold where the verdict is clear in either direction."""
    axes = [(reward, diversity) for reward in study.report.rewards for diversity in study.report.diversities]
    rows = []
    for rival in rivals:
        by_axes = {finding.axes: finding for finding in rival.findings}
        name = f"{style.method_name(rival.method)}, {style.strategy_name(rival.strategy)}"
        rows.append([name, *(_mark(by_axes[pair]) for pair in axes)])
    return _table(["curve", *(f"{look.metric(r)} / {look.metric(d)}" for r, d in axes)], rows)


def _mark(finding: Finding) -> str:
    if finding.interval.mean != finding.interval.mean:
        return "–"
    sign = {"shown": " **above**", "opposite": " **below**"}.get(finding.state.value, "")
    return f"{_interval(finding.interval)}{sign}"


def _interval(found: Interval | None) -> str:
    if found is None or found.mean != found.mean:
        return "–"
    places = style.digits((found.high - found.low) / 2, found.mean) + 1  # so that an end near zero shows its side
    mean, low, high = (style.number(v, places, sign=True) for v in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def _seeds(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3g}" for value in values)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
