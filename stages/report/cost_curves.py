"""Curves of reward against what an image costs, and how a panel shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stages.report.curves import Curve
    from stages.report.data import ReportData
    from stages.report.measurements import Cost, Point

BACKWARD = 2
"""Evaluations that the gradient of one counts as, beside itself; as in the budgets of training."""


@dataclass(frozen=True)
class Axis:
    """One way to count: the name of its column and the label of its axis."""

    name: str
    label: str

    def of(self, cost: Cost) -> float:
        """The cost of an image, counted so; 0 where nothing was spent."""
        found = {
            "evaluations": cost.nfe + BACKWARD * cost.nfe_backward, "queries": cost.queries, "seconds": cost.seconds
        }  # fmt: skip
        return found[self.name]


AXES = (
    Axis("evaluations", "network evaluations per image"),
    Axis("queries", "reward queries per image"),
    Axis("seconds", "seconds per image"),
)


def curves(data: ReportData) -> list[Curve]:
    """The base's searches, then every method under every strategy and alone."""
    from stages.report.curves import curve, strategies
    from stages.report.look import BASE

    look, evaluation = data.look, data.evaluation
    alone = [one for one in look.strategies.values() if one.about.role == "tuned"]
    plain = [curve(look, evaluation, method, one) for method in look.methods for one in alone]
    return [*strategies(look, evaluation, (BASE, *look.methods)), *(one for one in plain if one is not None)]


def logarithmic(axes: Axes) -> None:
    """A logarithmic axis of costs, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def star(axes: Axes, data: ReportData, axis: Axis, reward: str) -> None:
    """Plain sampling of the base, where it spends anything of this kind."""
    spent = axis.of(data.evaluation.costs[data.evaluation.base])
    if spent > 0:
        axes.plot(
            spent,
            mean(data, data.evaluation.base, reward),
            "*",
            color="black",
            markersize=12,
            markeredgecolor="white",
            zorder=7,
        )


def line(
    axes: Axes, data: ReportData, curve: Curve, axis: Axis, reward: str, look: dict[str, Any], bars: bool = True
) -> None:
    """One curve, in the order of its cost, with intervals unless not `bars`."""
    import numpy as np

    costs = data.evaluation.costs
    points = sorted((p for p in curve.own if axis.of(costs[p]) > 0), key=lambda point: axis.of(costs[point]))
    if not points:
        return
    x, y = [axis.of(costs[point]) for point in points], [mean(data, point, reward) for point in points]
    if bars:
        reach = np.array([_reach(data, point, reward) for point in points]).T
        axes.errorbar(x, y, yerr=reach, fmt="none", ecolor=look["color"], elinewidth=0.8, alpha=0.28)
    axes.plot(x, y, **look)


def mean(data: ReportData, point: Point, metric: str) -> float:
    """The mean of a metric at a point; NaN where it has none."""
    found = data.findings.estimate(point, metric)
    return found.mean if found else math.nan


def _reach(data: ReportData, point: Point, metric: str) -> tuple[float, float]:
    """Distances down and up to the ends of the interval of the paired difference to the base."""
    from stages.report.look import BASE

    away = data.findings.difference(point, metric, BASE)
    return (max(away.mean - away.low, 0.0), max(away.high - away.mean, 0.0)) if away else (0.0, 0.0)
