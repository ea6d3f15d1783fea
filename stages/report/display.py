"""The tables of the page, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.report import curves, style
from stages.report.claims import Finding, Interval, State
from stages.report.load import BASE, Evaluation, Log, Point
from stages.report.rows import Difference, Estimate
from stages.report.settings import ReportStudy
from stages.report.style import Look
from stages.report.verdict import Rival

MARKS = {State.SHOWN: "✓", State.PARTLY: "◐", State.NOT_SHOWN: "–", State.OPPOSITE: "✗"}


@dataclass(frozen=True)
class Cell:
    """Text, a second smaller line, a CSS class, and a colour for a mark before the text."""

    text: str
    sub: str = ""
    kind: str = ""
    dot: str = ""


NOTHING = Cell("–")


@dataclass(frozen=True)
class Table:
    """A table of the page; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def metric_order(study: ReportStudy, evaluation: Evaluation) -> list[str]:
    """Rewards, diversities, then every other metric in the order of the tables."""
    first = [*study.report.rewards, *study.report.diversities]
    return [*first, *(metric for metric in evaluation.metrics if metric not in first)]


def headline_points(study: ReportStudy, evaluation: Evaluation, look: Look) -> list[Point]:
    """The base at its scales, and every method tuned only and at the middle of combined generation."""
    points = [Point(BASE, "guidance", scale) for scale in evaluation.values(BASE, "guidance")]
    for method in look.order:
        tuned, combined = curves.tuned_point(study, evaluation, method), curves.combined(study, evaluation, method)
        points += [tuned] if tuned else []
        points += [curves.middle(combined)] if combined else []
    return points


def settings(
    study: ReportStudy, evaluation: Evaluation, look: Look, found: Sequence[Estimate], points: Sequence[Point]
) -> Table:
    """Every metric of some points, with intervals, and what an image costs."""
    metrics = metric_order(study, evaluation)
    known = {(one.point, one.metric): one.interval for one in found if one.point in points}
    places = {m: _places(interval for (_, metric), interval in known.items() if metric == m) for m in metrics}
    rows = []
    for point in points:
        cost = evaluation.costs[point]
        cells = [_estimate(known.get((point, metric)), places[metric]) for metric in metrics]
        rows.append([_name(evaluation, look, point), *cells, Cell(f"{cost.nfe:.0f}"), Cell(f"{cost.seconds:.3g}")])
    return Table(["", *(look.metric(metric) for metric in metrics), "NFE", "seconds"], rows)


def gaps(study: ReportStudy, look: Look, rivals: Iterable[Rival]) -> Table:
    """The mean reward gap of curves to the reference's combined generation, a column a (reward, diversity)."""
    axes = [(reward, diversity) for reward in study.report.rewards for diversity in study.report.diversities]
    rows = []
    for rival in rivals:
        strategy = "guidance scales" if rival.method == BASE else style.strategy_name(rival.strategy)
        name = Cell(style.method_name(rival.method), strategy, dot=look.colour(rival.method))
        rows.append([name, *(gap(finding) for finding in rival.findings)])
    return Table(
        ["", *(f"{look.metric(reward)} at equal {look.metric(diversity)}" for reward, diversity in axes)], rows
    )


def gap(finding: Finding) -> Cell:
    """A gap with its interval, coloured where it lies clearly above or below."""
    if not math.isfinite(finding.interval.mean) or not math.isfinite(finding.interval.low):
        return Cell("–", "no overlap")
    return signed(finding.interval)


def signed(interval: Interval) -> Cell:
    """A difference with its interval below, coloured where the interval lies beyond zero."""
    kind = {1: "up", -1: "down"}.get(interval.sign(), "")
    places = style.digits((interval.high - interval.low) / 2, interval.mean)
    low, high = style.number(interval.low, places, True), style.number(interval.high, places, True)
    return Cell(style.number(interval.mean, places, True), f"{low} to {high}", kind=kind)


def differences(
    study: ReportStudy, evaluation: Evaluation, look: Look, found: Sequence[Difference], method: str, against: str
) -> Table:
    """Paired differences of one method's settings against the base or the reference method."""
    part = {(d.point, d.metric): d for d in found if d.point.method == method and d.against == against}
    metrics = [metric for metric in metric_order(study, evaluation) if metric in {metric for _, metric in part}]
    rows = []
    for point in dict.fromkeys(point for point, _ in part):
        pairs = [part.get((point, metric)) for metric in metrics]
        cells = [signed(pair.interval) if pair else NOTHING for pair in pairs]
        rows.append([_name(evaluation, look, point), *cells])
    return Table(["", *(look.metric(metric) for metric in metrics)], rows)


def identities(study: ReportStudy, evaluation: Evaluation, look: Look, ids: Mapping[str, str]) -> Table:
    """What every metric rests on, without the metric's own name before it; no rows where there are no ids."""
    names = [metric for metric in metric_order(study, evaluation) if metric in ids]
    rests = [ids[name].removeprefix(name).removeprefix(": ") for name in names]
    rows = [[Cell(look.metric(n), n), Cell(on or "no model", kind="id")] for n, on in zip(names, rests, strict=True)]
    return Table(["metric", "model @ revision or digest (preprocessing)"], rows)


def cost(study: ReportStudy, evaluation: Evaluation) -> Table:
    """Network evaluations and seconds an image, a row a strategy, ranges over its settings and methods."""
    rows = []
    for strategy in dict.fromkeys(point.strategy for point in evaluation.points):
        points = sorted((p for p in evaluation.points if p.strategy == strategy), key=lambda point: point.value)
        costs = [evaluation.costs[point] for point in points]
        view = study.sample.strategies.get(strategy)
        guided = f"base guidance {view.base_guidance:g}" if view and view.base_guidance != 1 else ""
        name = "base, guidance scales" if strategy == "guidance" else style.strategy_name(strategy)
        settings = ", ".join(dict.fromkeys(evaluation.labels[point] for point in points))
        nfe, seconds = _range([c.nfe for c in costs], "{:.0f}"), _range([c.seconds for c in costs], "{:.2g}")
        rows.append([Cell(name, guided), Cell(settings), Cell(nfe), Cell(seconds)])
    return Table(["strategy", "settings", "NFE an image", "seconds an image"], rows)


def training_cost(study: ReportStudy, log: Log, look: Look) -> Table:
    """Optimizer steps, network evaluations and queries of every run, where the log has them."""
    rows = []
    for run, view in study.runs.items():
        steps, spent = log[run].get("loss"), log[run].get("nfe")
        name = Cell(style.method_name(view.method), f"seed {view.seed}", dot=look.colour(view.method))
        evaluations = f"{spent.values.sum():,.0f}".replace(",", " ") if spent else "–"
        asked = log[run].get("queries")
        queries = f"{asked.values.sum():,.0f}".replace(",", " ") if asked else "–"
        rows.append([name, Cell(f"{len(steps.steps) if steps else '–'}"), Cell(evaluations), Cell(queries)])
    return Table(["run", "optimizer steps", "NFE of the tuned network, all images", "queries of the reward"], rows)


def _name(evaluation: Evaluation, look: Look, point: Point) -> Cell:
    strategy = style.strategy_name(point.strategy).removesuffix(" generation")
    label = evaluation.labels[point]
    setting = f"guidance {point.value:g}" if point.method == BASE else f"{strategy}, {label}"
    sub = strategy if label == point.strategy else setting
    return Cell(style.method_name(point.method), sub, dot=look.colour(point.method))


def _estimate(interval: Interval | None, places: int) -> Cell:
    if interval is None:
        return NOTHING
    mean = style.number(interval.mean, places)
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return Cell(mean)
    return Cell(mean, f"{style.number(interval.low, places)} to {style.number(interval.high, places)}")


def _places(intervals: Iterable[Interval]) -> int:
    """Decimal places of a column, from its median interval, or its median size where there are no intervals.

    One more than the interval asks for: rows of a column share their prompts, so they differ by less than it says.
    """
    found = list(intervals)
    sizes = sorted(abs(i.mean) for i in found)
    size = sizes[len(sizes) // 2] if sizes else 0.0
    halves = sorted(half for i in found if (half := (i.high - i.low) / 2) > 1e-9 * size)
    return min(4, style.digits(halves[len(halves) // 2], size) + 1) if halves else style.digits(0, size)


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
