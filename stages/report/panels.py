"""Curves of reward against diversity: one panel per (reward, diversity) pair, with intervals, seeds and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from stages.report import legend, style
from stages.report.claims import Interval
from stages.report.curves import Curve, Stop, base_curves
from stages.report.look import BASE, Look
from stages.report.point_labels import Label, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stages.report.data import ReportData
    from stages.report.measurements import Point

Text = Callable[[Curve, Stop], str]
"""The label of a point on a curve; empty for none."""


@dataclass
class Panel:
    """One panel, where its points stand, and the labels that are to be written when its size is final."""

    axes: Axes
    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def draw(
    data: ReportData, curves: Sequence[Curve], handles: Sequence[Line2D], text: Text,
    diversities: Sequence[str] | None = None,
) -> Figure:  # fmt: skip
    """The grid of panels with these curves, the base's own curves and the base (star) beneath, and a legend; over the
    report's diversities, or others.
    """
    style.use()
    import matplotlib.pyplot as plt

    rewards, diversities = data.study.report.rewards, diversities or data.study.report.diversities
    size = (4.3 * len(diversities) + 0.6, 3.7 * len(rewards) + 0.4)
    figure, grid = plt.subplots(len(rewards), len(diversities), figsize=size, squeeze=False, sharex="col", sharey="row")
    every = (*reversed(curves), *base_curves(data.look, data.evaluation))
    panels = []
    for row, reward in enumerate(rewards):
        for column, diversity in enumerate(diversities):
            panel = Panel(grid[row][column])
            for curve in every:
                _add(panel, data, curve, diversity, reward, text)
            panel.points.append(_star(panel.axes, data, diversity, reward))
            panel.axes.margins(0.07)
            if column == 0:
                panel.axes.set_ylabel(data.look.axis(reward))
            if row == len(rewards) - 1:
                panel.axes.set_xlabel(data.look.axis(diversity))
            panels.append(panel)
    figure.align_ylabels()
    legend.arrange(figure, [*handles, *_base_handles(data)])
    for panel in panels:
        place(panel.axes, panel.labels, panel.points)
    return figure


def handle(look: Look, curve: Curve, label: str) -> Line2D:
    """A curve's entry in the legend."""
    from matplotlib.lines import Line2D

    colour = look.colour(curve.method)
    return Line2D(
        [], [], color=colour, linestyle=curve.strategy.line, marker=_marker(look, curve), markersize=5,
        markeredgecolor=colour, markerfacecolor=_face(curve, colour), label=label,
    )  # fmt: skip


def _base_handles(data: ReportData) -> list[Line2D]:
    from matplotlib.lines import Line2D

    leading = data.look.leading
    end = f" ({leading.about.base.text})" if leading and leading.about.base else ""
    curves = [handle(data.look, one, f"base, {one.strategy.label}") for one in base_curves(data.look, data.evaluation)]
    return [*curves, Line2D([], [], color="black", marker="*", markersize=11, linestyle="none", label=f"base{end}")]


def _add(panel: Panel, data: ReportData, curve: Curve, diversity: str, reward: str, text: Text) -> None:
    """One curve with intervals, faint points of the single seeds, and the labels of a featured method's points."""
    look, axes = data.look, panel.axes
    colour, featured = look.colour(curve.method), curve.method in look.featured
    stops = curve.stops if curve.strategy.about.leading else curve.inner
    x, y = ([_interval(data, stop.point, axis) for stop in stops] for axis in (diversity, reward))
    across, up = [v.mean for v in x], [v.mean for v in y]
    axes.errorbar(across, up, xerr=_reach(x), yerr=_reach(y), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.28)
    strong = featured and curve.strategy.about.leading
    axes.plot(
        across, up, linestyle=curve.strategy.line, color=colour, linewidth=1.9 if strong else 1.2,
        zorder=4 if featured else 3,
    )  # fmt: skip
    marked = [(s, a, b) for s, a, b in zip(stops, across, up, strict=True) if _marked(curve, s)]
    axes.plot(
        [a for _, a, _ in marked], [b for _, _, b in marked], linestyle="none", marker=_marker(look, curve),
        markersize=4.6 if featured else 3.4, markeredgecolor=colour, markeredgewidth=0.9, zorder=5,
        markerfacecolor=_face(curve, colour),
    )  # fmt: skip
    for stop in stops:
        _seed_points(axes, data, stop.point, diversity, reward, colour)
    panel.points += [(a, b) for _, a, b in marked]
    if featured or curve.method == BASE:
        panel.labels += _labels(curve, marked, look, text)


def _marked(curve: Curve, stop: Stop) -> bool:
    """Whether a point has a marker: the curve's own points and, of the leading strategy's, the tuned network's."""
    return not stop.end or (curve.strategy.about.leading and stop.point.method != BASE)


def _seed_points(axes: Axes, data: ReportData, point: Point, diversity: str, reward: str, colour: str) -> None:
    x, y = (found.per_seed if (found := data.findings.estimate(point, axis)) else () for axis in (diversity, reward))
    if len(x) > 1:
        axes.plot(x, y, ".", color=colour, markersize=3.2, alpha=0.35, zorder=3)


def _labels(curve: Curve, marked: Sequence[tuple[Stop, float, float]], look: Look, text: Text) -> list[Label]:
    """Each point's setting: below left of the reference, below the base, else above right; the curve's ends first."""
    toward = {look.reference: "sw", BASE: "s"}.get(curve.method, "ne")
    colour = look.colour(curve.method)
    found = [Label(words, x, y, colour, toward) for stop, x, y in marked if (words := text(curve, stop))]
    return [*found[:1], *found[:0:-1]]


def _star(axes: Axes, data: ReportData, diversity: str, reward: str) -> tuple[float, float]:
    across, up = (_interval(data, data.evaluation.base, axis).mean for axis in (diversity, reward))
    axes.plot(across, up, "*", color="black", markersize=13, markeredgecolor="white", markeredgewidth=0.8, zorder=7)
    return across, up


def _interval(data: ReportData, point: Point, metric: str) -> Interval:
    """A point's mean, with the interval of its paired difference to the base around it: prompts differ among themselves
    by more than methods do, and that is no uncertainty of a comparison on the same prompts.
    """
    found, away = data.findings.estimate(point, metric), data.findings.difference(point, metric, BASE)
    mean = found.mean if found else np.nan
    return (
        Interval(mean, mean + away.low - away.mean, mean + away.high - away.mean)
        if away
        else Interval(mean, mean, mean)
    )


def _reach(values: Sequence[Interval]) -> np.ndarray:
    """Distances down and up to the ends of the intervals, shape (2, points)."""
    pairs = np.array([(v.mean - v.low, v.high - v.mean) for v in values]).T
    return np.nan_to_num(np.maximum(pairs, 0.0))


def _marker(look: Look, curve: Curve) -> str:
    return curve.strategy.marker or look.marker(curve.method)


def _face(curve: Curve, colour: str) -> str:
    return colour if curve.strategy.about.leading or curve.strategy.about.role == "base" else "white"
