"""The findings of a study as a page of Markdown tables, for a reader of the repository."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from stages.report import judges, passing, style
from stages.report.agreement import PROMPTS
from stages.report.claims import POWER, Interval, State
from stages.report.data import ReportData
from stages.report.findings import Claim, Finding
from stages.report.look import BASE

TITLES = {
    "raises": "1. Tuning raises the reward, and diversity collapses",
    "trade": "2. {strategy} brings diversity back",
    "best": "3. More reward than the reference at no less diversity",
    "above": "4. Above the reference at equal diversity",
    "parts_company": "5. Training reward and true reward diverge under long training",
}
"""By the key of a claim."""


def account(data: ReportData) -> str:
    """All claims with their parts, every curve's gap to the reference's, every ablation's to the candidate's."""
    study, look = data.study, data.look
    reference, candidate = look.method(study.study.reference), look.method(study.report.candidate)
    strategy = look.leading.label if look.leading else ""
    intervals = "prompts and training seeds" if study.report.resample == "prompts_and_seeds" else "prompts"
    parts = [
        f"# {_heading(data)}",
        f"{study.study.description}. Written by `python -m stages.report.results` from the study's measures; intervals "
        f"are {study.report.interval:.0%} bootstraps over {intervals}, in brackets; single training seeds follow.",
        _alone(data),
    ]
    for claim in data.findings.claims:
        form = _bests if claim.key == "best" else _areas if claim.pairs else _changes
        parts += [f"## {_title(data, claim)}", form(data, claim.parts), _detectable(data, claim.parts)]
    if lines := passing.warnings(data):
        parts += ["## Diversity among images that pass says something else", "\n".join(f"- {line}" for line in lines)]
    if rivals := data.findings.curves("gap"):
        parts += [f"## Mean reward gap to {reference}'s {strategy}, at equal diversity", _curves(data, rivals)]
    if ablations := data.findings.curves("ablation"):
        title = f"## Ablations: the same gap to {candidate}'s {strategy}, on the training seeds that both have"
        parts += [title, _curves(data, ablations)]
    parts += _judges(data)
    return "\n\n".join(parts) + "\n"


def _judges(data: ReportData) -> list[str]:
    """Which judges are not independent, and the rank correlation of every pair over mean scores of prompts."""
    points, pairs = judges.matrix(data, PROMPTS)
    lines = "\n".join(f"- {line}" for line in judges.warnings(data))
    if not pairs:
        return ["## Judges", lines] if lines else []
    rows = [
        [judges.pair_label(data, pair), *("–" if one is None else _interval(one.interval) for one in found)]
        for pair, found in pairs
    ]
    head = ["judges", *(judges.name(data, point) for point in points)]
    title = "## Judges: rank correlation (Spearman) over mean scores of prompts"
    return [part for part in (title, lines, _table(head, rows)) if part]


def verdicts(data: ReportData) -> str:
    """All claims in plain text, one line per part: what is compared, the verdict, the number with its interval, single
    seeds, the smallest effect that would have been seen.
    """
    lines = [_heading(data)]
    for claim in data.findings.claims:
        lines.append(_title(data, claim))
        for part in claim.parts:
            axes = (" at no less " if claim.key == "best" else " at equal ").join(map(data.look.metric, part.axes))
            seeds = f"; seeds {_seeds(part.per_seed)}" if part.per_seed else ""
            least = f"; could have seen {part.detectable:.2g}" if math.isfinite(part.detectable) else ""
            main = " (main)" if part.main else ""
            lines.append(f"    {axes}: {part.state}{main}, {_interval(part.interval)}{seeds}{least}")
    return "\n".join(lines)


def _heading(data: ReportData) -> str:
    """The study and the methods that its claims are about; the reference alone, where the candidate has no run."""
    names = [name for name in (data.look.candidate, data.look.reference) if name is not None]
    return f"{data.study.study.name}: {' and '.join(map(data.look.method, names))}"


def _title(data: ReportData, claim: Claim) -> str:
    strategy = data.look.leading.label if data.look.leading else ""
    title = TITLES[claim.key].format(strategy=strategy[:1].upper() + strategy[1:])
    return f"{title}: {claim.state.value}"


def _alone(data: ReportData) -> str:
    """The mean of every reward and diversity: the base, and every method tuned only."""
    axes = [*data.study.report.rewards, *data.study.report.diversities]
    alone = [point for point in data.evaluation.points if data.look.strategy(point.strategy).about.role != "curve"]
    rows = []
    for point in alone:
        found = (data.findings.estimate(point, axis) for axis in axes)
        label = f"{data.look.method(point.method)} ({len(data.evaluation.seeds[point.method])} seeds)"
        name = f"base, {data.evaluation.labels[point]}" if point.method == BASE else label
        rows.append([name, *(f"{one.mean if one else math.nan:.3f}" for one in found)])
    return _table(["alone", *(data.look.metric(axis) for axis in axes)], rows)


def _changes(data: ReportData, parts: Iterable[Finding]) -> str:
    rows = [[data.look.metric(f.metric), f.state, _interval(f.interval), _seeds(f.per_seed), f.note] for f in parts]
    return _table(["metric", "verdict", "change", "seeds", "on the way"], rows)


def _bests(data: ReportData, parts: Iterable[Finding]) -> str:
    rows = [
        [*(data.look.metric(axis) for axis in f.axes), f"{f.state}{' (main)' if f.main else ''}", _interval(f.interval),
         _seeds(f.per_seed), f.note] for f in parts
    ]  # fmt: skip
    return _table(["best reward", "at no less", "verdict", "gap", "seeds", "p"], rows)


def _detectable(data: ReportData, parts: Sequence[Finding]) -> str:
    """The smallest effects that the study could have shown."""
    found = (
        f"{' / '.join(data.look.metric(axis) for axis in f.axes)} {f.detectable:.2g}"
        for f in parts if math.isfinite(f.detectable)
    )  # fmt: skip
    words = ", ".join(found)
    return (
        f"Smallest effects that would have been seen with a power of {POWER:.0%}: {words}." if words else "No effects."
    )


def _areas(data: ReportData, parts: Iterable[Finding]) -> str:
    rows = [
        [
            *(data.look.metric(axis) for axis in f.axes), f.state, _interval(f.area_interval), _interval(f.interval),
            _seeds(f.per_seed), f.note,
        ]
        for f in parts
    ]  # fmt: skip
    return _table(["reward", "at equal", "verdict", "area", "mean gap", "seeds", "where"], rows)


def _curves(data: ReportData, curves: Iterable[Sequence[Finding]]) -> str:
    """One row per curve, one column per (reward, diversity) pair; bold where a verdict is clear either way."""
    look, report = data.look, data.study.report
    rows = [
        [f"{look.method(curve[0].method)}, {look.strategy(curve[0].strategy).label}", *map(_mark, curve)]
        for curve in curves
    ]
    pairs = (f"{look.metric(r)} / {look.metric(d)}" for r in report.rewards for d in report.diversities)
    return _table(["curve", *pairs], rows)


def _mark(finding: Finding) -> str:
    if math.isnan(finding.mean):
        return "–"
    sign = {State.SHOWN: " **above**", State.OPPOSITE: " **below**"}.get(State(finding.state), "")
    return f"{_interval(finding.interval)}{sign}"


def _interval(found: Interval) -> str:
    if math.isnan(found.mean):
        return "–"
    places = style.digits((found.high - found.low) / 2, found.mean) + 1  # so that an end near zero shows its side
    mean, low, high = (style.number(v, places, sign=True) for v in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def _seeds(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3g}" for value in values)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
