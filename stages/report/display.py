"""The tables of the page: views of the findings, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from stages.measure.settings import PASSED, PASSED_IMAGES
from stages.report import curves, sources, style
from stages.report.claims import Interval
from stages.report.data import ReportData
from stages.report.findings import Finding, metrics_of
from stages.report.look import BASE
from stages.report.measurements import Point
from stages.report.table import NOTHING, Cell, Table


def metric_order(data: ReportData) -> list[str]:
    """Rewards, diversities, each beside that of passing images, then every other metric in the order of the tables."""
    known = set(data.evaluation.metrics)
    pairs = ((name, f"{name}{PASSED}") for name in data.study.report.diversities)
    shown = [name for pair in pairs for name in pair if name in known or name in data.study.report.diversities]
    counted = [PASSED_IMAGES] if PASSED_IMAGES in known else []
    first = list(dict.fromkeys([*data.study.report.rewards, *shown, *counted]))
    return [*first, *(metric for metric in data.evaluation.metrics if metric not in first)]


def headline_points(data: ReportData) -> list[Point]:
    """The base at its scales, and every method tuned only and in the middle of its leading curve."""
    look, evaluation = data.look, data.evaluation
    points = [Point(BASE, evaluation.base.strategy, g) for g in evaluation.values(BASE, evaluation.base.strategy)]
    for method in look.order:
        tuned, leading = curves.tuned_point(look, evaluation, method), curves.leading(look, evaluation, method)
        points += [tuned] if tuned else []
        points += [leading.middle] if leading else []
    return points


def settings(data: ReportData, points: Sequence[Point]) -> Table:
    """Every metric of some points, with intervals, and what an image costs."""
    metrics = metric_order(data)
    known = {(p, m): found for p in points for m in metrics if (found := data.findings.estimate(p, m))}
    places = {m: _places(found.interval for (_, metric), found in known.items() if metric == m) for m in metrics}
    rows = []
    for point in points:
        cost = data.evaluation.costs[point]
        cells = [_estimate(known.get((point, metric)), places[metric]) for metric in metrics]
        key = sources.of_point(data, point)
        nfe, seconds = (
            Cell(f"{cost.nfe:.0f}", source=f"{key}#nfe"),
            Cell(f"{cost.seconds:.3g}", source=f"{key}#seconds"),
        )
        rows.append([_name(data, point), *cells, nfe, seconds])
    return Table(["", *(data.look.metric(metric) for metric in metrics), "NFE", "seconds"], rows)


def gaps(data: ReportData, rivals: Iterable[Sequence[Finding]]) -> Table:
    """The mean reward gap of curves to the reference's leading one, one column per (reward, diversity) pair."""
    look, report = data.look, data.study.report
    axes = [(reward, diversity) for reward in report.rewards for diversity in report.diversities]
    rows = []
    for rival in rivals:
        method, strategy = rival[0].method, look.strategy(rival[0].strategy)
        label = "guidance scales" if strategy.about.role == "base" else strategy.label
        label += _searched(data, _rewards_of(data, rival[0]))
        name = Cell(look.method(method), label, dot=look.colour(method))
        rows.append([name, *(gap(finding) for finding in rival)])
    return Table(["", *(f"{look.metric(r)} at equal {look.metric(d)}" for r, d in axes)], rows)


def _rewards_of(data: ReportData, finding: Finding) -> Sequence[str]:
    """The rewards that were queried for the images of a curve."""
    costs = data.evaluation.costs.items()
    return next((c.searched for p, c in costs if (p.method, p.strategy) == (finding.method, finding.strategy)), ())


def gap(finding: Finding) -> Cell:
    """A gap with its interval, coloured where it lies clearly above or below."""
    if not math.isfinite(finding.mean) or not math.isfinite(finding.low):
        return Cell("–", "no overlap", number=finding.key)
    return signed(finding)


def signed(finding: Finding) -> Cell:
    """A difference with its interval below, coloured where the interval lies beyond zero."""
    interval = finding.interval
    kind = {1: "up", -1: "down"}.get(interval.sign(), "")
    places = style.digits((interval.high - interval.low) / 2, interval.mean)
    low, high = style.number(interval.low, places, True), style.number(interval.high, places, True)
    return Cell(style.number(interval.mean, places, True), f"{low} to {high}", kind=kind, number=finding.key)


def differences(data: ReportData, method: str, against: str) -> Table:
    """Paired differences of one method's settings to the base or to the reference method."""
    found = data.findings.select("difference", method, against)
    known = {(one.point, one.metric): one for one in found}
    metrics = [metric for metric in metric_order(data) if metric in metrics_of(found)]
    rows = []
    for point in dict.fromkeys(one.point for one in found):
        pairs = [known.get((point, metric)) for metric in metrics]
        rows.append([_name(data, point), *(signed(pair) if pair else NOTHING for pair in pairs)])
    return Table(["", *(data.look.metric(metric) for metric in metrics)], rows)


def identities(data: ReportData, ids: Mapping[str, str]) -> Table:
    """What every metric rests on, without the metric's own name before it; no rows where there are no ids."""
    names = [metric for metric in metric_order(data) if metric in ids]
    rests = [ids[name].removeprefix(name).removeprefix(": ") for name in names]
    rows = [
        [Cell(data.look.metric(name), name), Cell(on or "no model", kind="id")]
        for name, on in zip(names, rests, strict=True)
    ]
    return Table(["metric", "model @ revision or digest (preprocessing)"], rows)


def cost(data: ReportData) -> Table:
    """Network evaluations and seconds per image, one row per strategy, ranges over its settings and methods."""
    rows, evaluation = [], data.evaluation
    for name in dict.fromkeys(point.strategy for point in evaluation.points):
        points = sorted((p for p in evaluation.points if p.strategy == name), key=lambda point: point.value)
        costs = [evaluation.costs[point] for point in points]
        strategy = data.look.strategy(name)
        guided = f"base guidance {strategy.base_guidance:g}" if strategy.base_guidance != 1 else ""
        label = "base, guidance scales" if strategy.about.role == "base" else strategy.label
        labels = ", ".join(dict.fromkeys(evaluation.labels[point] for point in points))
        asked, key = ", ".join(data.look.metric(reward) for reward in costs[0].searched), sources.of_strategy(name)
        nfe = Cell(_range([c.nfe for c in costs], "{:.0f}"), source=f"{key}#nfe")
        seconds = Cell(_range([c.seconds for c in costs], "{:.2g}"), source=f"{key}#seconds")
        queries = Cell(_range([c.queries for c in costs], "{:.2g}"), asked, source=f"{key}#queries")
        rows.append([Cell(label, guided), Cell(labels), nfe, seconds, queries])
    return Table(["strategy", "settings", "NFE per image", "seconds per image", "reward queries per image"], rows)


def training_cost(data: ReportData) -> Table:
    """Optimizer steps, network evaluations and queries of every trained run, where the log has them."""
    rows = []
    for run in data.study.trained_runs:
        view = data.study.runs[run]
        mine = data.log[run]
        steps, spent, queried = mine.get("loss"), mine.get("nfe"), mine.get("queries")
        name = Cell(data.look.method(view.method), f"seed {view.seed}", dot=data.look.colour(view.method))
        counts = {"steps": float(len(steps.steps)) if steps else None}
        counts |= {
            key: float(term.values.sum()) if term else None for key, term in (("nfe", spent), ("queries", queried))
        }
        rows.append([name, *(_count(count, f"{sources.of_run(run)}#{key}") for key, count in counts.items())])
    return Table(["run", "optimizer steps", "NFE of the tuned network, all images", "queries of the reward"], rows)


def _count(count: float | None, source: str) -> Cell:
    return NOTHING if count is None else Cell(f"{count:,.0f}".replace(",", " "), source=source)


def _name(data: ReportData, point: Point) -> Cell:
    method, rest = words(data, point)
    return Cell(method, rest, dot=data.look.colour(point.method))


def words(data: ReportData, point: Point) -> tuple[str, str]:
    """A point in words: the method, and how images were made with it (`combined, k=10`)."""
    strategy, label = data.look.strategy(point.strategy), data.evaluation.labels[point]
    if strategy.about.role == "base":
        sub = f"{strategy.short} {point.value:g}"
    else:
        sub = strategy.short if label == point.strategy else f"{strategy.short}, {label}"
    return data.look.method(point.method), sub + _searched(data, data.evaluation.costs[point].searched)


def _searched(data: ReportData, rewards: Sequence[str]) -> str:
    """That images were chosen by a reward, which is then no fair judge of them."""
    return f", chosen by {' and '.join(data.look.metric(reward) for reward in rewards)}" if rewards else ""


def _estimate(found: Finding | None, places: int) -> Cell:
    if found is None:
        return NOTHING
    mean = style.number(found.mean, places)
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return Cell(mean, number=found.key)
    sub = f"{style.number(found.low, places)} to {style.number(found.high, places)}"
    return Cell(mean, sub, number=found.key)


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
