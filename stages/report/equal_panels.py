"""The frontier at equal cost where many lines would lie over each other: a column of panels per network, a row per
budget, a colour per strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.report.affordable import Affordable, Budget, affordable, budgets, of_network, pair, place, within
from stages.report.gaps import unbeaten
from stages.report.look import BASE_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stages.report.data import ReportData
    from stages.report.load import Point

OWN = "0.25"
"""Grey of the frontier of a network's own points; that of all networks is paler and broad."""


def draw(data: ReportData) -> Figure:
    """A block of rows per way to count, in it a row per budget, and a column per network."""
    from stages.report import cost_panels, legend, style

    style.use()
    import matplotlib.pyplot as plt

    (reward, diversity), names = pair(data), cost_panels.networks(data)
    rows = [(n == 0, budget) for row in budgets(data) for n, budget in enumerate(row)]
    size = (3.3 * len(names) + 0.9, 2.3 * len(rows) + 0.4)
    figure, grid = plt.subplots(len(rows), len(names), figsize=size, squeeze=False, sharex=True, sharey=True)
    for (first, budget), panels in zip(rows, grid, strict=True):
        for method, axes in zip(names, panels, strict=True):
            _panel(axes, data, method, budget)
            if first:
                axes.set_title(cost_panels.name(data, method), loc="left", fontweight="bold")
        way = budget.axis.label.removesuffix(" per image")
        panels[0].set_ylabel(f"at most {budget.most:.3g}\n{way}\n\n{data.look.axis(reward)}")
    for axes in grid[-1]:
        axes.set_xlabel(data.look.axis(diversity))
    figure.align_ylabels()
    legend.arrange(figure, handles(data))
    return figure


def handles(data: ReportData) -> Sequence[Line2D]:
    """An entry per strategy, whatever the network, and the two frontiers."""
    from matplotlib.lines import Line2D

    from stages.report import cost_panels

    star = Line2D([], [], color="black", marker="*", markersize=11, linestyle="none", label="base")
    found = [star]
    for one in cost_panels.strategies(data):
        found.append(Line2D([], [], label=one.label, **_look(data, one), markersize=6.5))
    return [
        *found,
        *(Line2D([], [], label=label, **_alone(), markersize=6.5) for label in cost_panels.alone(data)),
        Line2D([], [], color="0.6", linewidth=5, alpha=0.45, label="frontier of all networks"),
        Line2D([], [], color=OWN, linewidth=1.2, linestyle=":", label="frontier of this network"),
    ]


def _panel(axes: Axes, data: ReportData, method: str, budget: Budget) -> None:
    curves = affordable(data, budget)
    points = within(data, budget, curves)
    around(axes, data, points)
    _line(axes, data, of_network(points, method), color=OWN, linewidth=1.2, linestyle=":", zorder=2)
    for each in (one for one in curves if one.curve.method == method):
        strategy = each.curve.strategy
        marks(axes, data, each, _alone() if strategy.about.role == "tuned" else _look(data, strategy))


def marks(axes: Axes, data: ReportData, each: Affordable, look: Mapping[str, Any]) -> None:
    """What a curve has within a budget: the dearest of its points large."""
    for points, size, faint in ((each.points, 3.0, 0.5), (each.dearest, 6.5, 1.0)):
        places = [place(data, point) for point in points]
        axes.plot([x for x, _ in places], [y for _, y in places], markersize=size, alpha=faint, **look)


def around(axes: Axes, data: ReportData, points: Sequence[Point]) -> None:
    """The frontier of all points within a budget, and the base where it is among them."""
    _line(axes, data, points, color="0.6", linewidth=5, alpha=0.45, zorder=1)
    if (base := data.evaluation.base) in points:
        axes.plot(*place(data, base), "*", color="black", markersize=12, markeredgecolor="white", zorder=7)
    axes.margins(0.08)


def _line(axes: Axes, data: ReportData, points: Sequence[Point], **look: Any) -> None:
    line = unbeaten([place(data, point) for point in points])
    axes.plot([x for x, _ in line], [y for _, y in line], **look)


def _look(data: ReportData, strategy: Any) -> dict[str, Any]:
    from stages.report import cost_panels

    look = cost_panels.look_of(data, strategy)
    return {"color": look["color"], "marker": look["marker"], "linestyle": "none", "markeredgewidth": 0, "zorder": 4}


def _alone() -> dict[str, Any]:
    """The tuned network without a search."""
    return {"color": BASE_COLOUR, "marker": "o", "linestyle": "none", "markerfacecolor": "white", "zorder": 6}
