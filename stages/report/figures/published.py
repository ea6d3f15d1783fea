"""Means of base and methods beside those that somebody else published, where both measured the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stages.report.data import ReportData
    from stages.report.findings import Finding

ABOUT = FigureAbout(
    "Beside published numbers",
    files=("published.svg", "published.png"),
    table="plots/published.csv",
    section="numbers",
    place=60,
    alt="Means of base and methods of this study, with intervals, beside the means that another source published.",
)
THEIRS = "#8a8a8a"
"""Colour of what is not of this study."""


def caption(data: ReportData) -> str:
    """Whose numbers stand there, and what keeps numbers from being comparable."""
    published = data.study.report.published
    if published is None:
        return "The study names no published numbers."
    if other := differing(data):
        return f"Numbers of {published.source} are not drawn: {'; '.join(other)}."
    unknown = sorted({m for values in published.values.values() for m in values} - set(data.evaluation.metrics))
    left_out = f" Not measured here: {', '.join(unknown)}." if unknown else ""
    return (
        f"Grey bars (theirs): {published.source}, means without intervals, of other weights, noise and code. Markers "
        f"(ours): base and methods alone, with the interval over prompts.{left_out}"
    )


def shown(data: ReportData) -> bool:
    """Only where the study names published numbers."""
    return data.study.report.published is not None


def differing(data: ReportData) -> list[str]:
    """Every setting in which this study differs from what was published, in words; unknown ones are not compared."""
    published = data.study.report.published
    if published is None:
        return []
    evaluation, count = data.evaluation, len(data.evaluation.prompts)
    images = round(evaluation.costs[evaluation.base].images / count)
    ours = {"prompts": count, "samples": images, "steps": data.study.sample.steps}
    theirs = {name: getattr(published, name) for name in ours}
    return [
        f"{name}: {theirs[name]} there, {here} here"
        for name, here in ours.items()
        if theirs[name] is not None and theirs[name] != here
    ]


def rows(data: ReportData) -> list[dict[str, object]]:
    """Both means of every method and metric that both have, and the difference."""
    found: list[dict[str, object]] = []
    for method, metric, theirs, ours in _pairs(data):
        same = ours is not None
        found.append({
            "method": method, "metric": metric, "theirs": theirs, "ours": ours.mean if same else "",
            "low": ours.low if same else "", "high": ours.high if same else "",
            "ours_minus_theirs": ours.mean - theirs if same else "",
        })  # fmt: skip
    return found


def draw(data: ReportData) -> Figure:
    """One panel per metric; a row per method, its published mean as a grey bar."""
    from stages.report import legend, style

    style.use()
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    pairs = _pairs(data)
    metrics = list(dict.fromkeys(metric for _, metric, _, _ in pairs))
    methods = list(dict.fromkeys(method for method, _, _, _ in pairs))
    size = (3.4 * max(len(metrics), 1) + 1.0, 0.5 * len(methods) + 1.2)
    figure, grid = plt.subplots(1, max(len(metrics), 1), figsize=size, squeeze=False, sharey=True)
    if not metrics:
        grid[0][0].text(0.5, 0.5, "no published number is comparable", ha="center", color=THEIRS)
        grid[0][0].set_axis_off()
    for axes, metric in zip(grid[0], metrics, strict=False):
        for method, _, theirs, ours in (pair for pair in pairs if pair[1] == metric):
            _add(axes, data, len(methods) - 1 - methods.index(method), method, theirs, ours)
        axes.set_yticks(range(len(methods)), [data.look.method(name) for name in reversed(methods)])
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.set_xlabel(data.look.axis(metric))
    ours = Line2D([], [], color="black", marker="o", markersize=5, linestyle="none", label="ours")
    bar = Line2D([], [], color=THEIRS, linewidth=5, label="theirs")
    legend.arrange(figure, [ours, bar])
    return figure


def _add(axes: Axes, data: ReportData, row: int, method: str, theirs: float, ours: Finding | None) -> None:
    axes.vlines(theirs, row - 0.35, row + 0.35, color=THEIRS, linewidth=5, alpha=0.6)
    if ours is not None:
        reach = [[max(ours.mean - ours.low, 0)], [max(ours.high - ours.mean, 0)]]
        axes.errorbar(ours.mean, row, xerr=reach, color=data.look.colour(method), marker="o", markersize=5, zorder=3)


def _pairs(data: ReportData) -> list[tuple[str, str, float, Finding | None]]:
    """Method, metric, published mean, this study's mean; none where settings differ, no metric unknown here."""
    from stages.report.curves import tuned_point
    from stages.report.look import BASE

    published = data.study.report.published
    if published is None or differing(data):
        return []
    found: list[tuple[str, str, float, Finding | None]] = []
    for method, values in published.values.items():
        point = data.evaluation.base if method == BASE else tuned_point(data.look, data.evaluation, method)
        for metric, value in values.items():
            if metric in data.evaluation.metrics:
                found.append((method, metric, value, data.findings.estimate(point, metric) if point else None))
    return found
