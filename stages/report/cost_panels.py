"""Reward against cost where many lines would lie over each other: a column of panels per network, a colour per
strategy, and the yardstick and plain sampling of the base in every panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.report.look import BASE, BASE_COLOUR, CANDIDATE_COLOUR, OTHER_COLOURS, REFERENCE_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stages.report.curves import Curve
    from stages.report.data import ReportData
    from stages.report.look import Strategy

MOST = 14
"""Lines that one panel may have."""
COLOURS = (*OTHER_COLOURS, REFERENCE_COLOUR, CANDIDATE_COLOUR)
MARKERS = ("s", "^", "D", "v", "P", "X", "p", "<", ">")  # one fewer than colours: pairs of the two repeat late
YARDSTICK = "#b6bcc6"
GAP, GAP_OF_BLOCKS = 0.14, 0.78  # inches between rows


def crowded(data: ReportData) -> bool:
    """Whether the lines of all networks together are too many for one panel."""
    from stages.report import cost_curves

    return len(cost_curves.curves(data)) > MOST and len(networks(data)) > 1


def networks(data: ReportData) -> tuple[str, ...]:
    """The base and the methods of the study that have a line, in the order of the lines."""
    from stages.report import cost_curves

    return tuple(dict.fromkeys((BASE, *(curve.method for curve in cost_curves.curves(data)))))


def draw(data: ReportData) -> Figure:
    """A block of rows per way to count, in it a row per reward, and a column per network."""
    from stages.report import cost_curves, legend, style

    style.use()
    import matplotlib.pyplot as plt

    rewards, names = data.study.report.rewards, networks(data)
    rows = [(axis, reward) for axis in cost_curves.AXES for reward in rewards]
    size = (3.3 * len(names) + 0.6, 2.2 * len(rows) + 0.4)
    figure, grid = plt.subplots(len(rows), len(names), figsize=size, squeeze=False)
    for n, (axis, reward) in enumerate(rows):
        for method, axes in zip(names, grid[n], strict=True):
            first = grid[n - n % len(rewards)][0]
            axes.sharex(first)
            axes.sharey(grid[n % len(rewards)][0])
            _panel(axes, data, method, axis, reward)
            axes.tick_params(labelbottom=n % len(rewards) == len(rewards) - 1, labelleft=axes is grid[n][0])
        grid[n][0].set_ylabel(data.look.axis(reward).replace(" (", "\n("))
        for method, axes in zip(names, grid[n], strict=True):
            if n % len(rewards) == 0:
                axes.set_title(name(data, method), loc="left", fontweight="bold")
            if n % len(rewards) == len(rewards) - 1:
                axes.set_xlabel(axis.label)
    figure.align_ylabels()
    legend.arrange(figure, handles(data), h_pad=0.3)
    _close_up(figure, grid, len(rewards))
    return figure


def _close_up(figure: Figure, grid: Any, block: int) -> None:
    """Draw the rows of a block together: only between blocks there are labels and titles."""
    high = figure.get_figheight()
    gaps = [GAP_OF_BLOCKS if n % block == 0 else GAP for n in range(1, len(grid))]
    top, bottom = grid[0][0].get_position().y1, grid[-1][0].get_position().y0
    each = (top - bottom - sum(gaps) / high) / len(grid)
    for row, gap in zip(grid, [*gaps, 0.0], strict=True):
        for axes in row:
            place = axes.get_position()
            axes.set_position((place.x0, top - each, place.width, each))
        top -= each + gap / high


def handles(data: ReportData) -> Sequence[Line2D]:
    """An entry per strategy, whatever the network."""
    from matplotlib.lines import Line2D

    star = Line2D([], [], color="black", marker="*", markersize=11, linestyle="none", label="base")
    of_base = Line2D([], [], color=YARDSTICK, linewidth=4.5, label=_yardstick(data))
    plain = {"color": BASE_COLOUR, "marker": "o", "markersize": 7, "linestyle": "none", "markerfacecolor": "white"}
    shown = [Line2D([], [], label=one.label, **look_of(data, one)) for one in strategies(data)]
    return [
        star,
        *(Line2D([], [], label=label, **plain) for label in alone(data)),
        *([of_base] if _has(data) else []),
        *shown,
    ]


def strategies(data: ReportData) -> list[Strategy]:
    """Those that have a colour: every one that has lines but the tuned network alone."""
    return [one for one in _strategies(data) if one.about.role != "tuned"]


def alone(data: ReportData) -> list[str]:
    """Labels of the tuned network without anything, where it is measured."""
    return [one.label for one in _strategies(data) if one.about.role == "tuned"]


def _strategies(data: ReportData) -> list[Strategy]:
    from stages.report import cost_curves

    found = {curve.strategy.name: curve.strategy for curve in cost_curves.curves(data)}
    return [found[name] for name in data.look.strategies if name in found]


def _panel(axes: Axes, data: ReportData, method: str, axis: Any, reward: str) -> None:
    from stages.report import cost_curves

    cost_curves.logarithmic(axes)
    every = cost_curves.curves(data)
    for curve in (one for one in every if _is_yardstick(one)):
        cost_curves.line(
            axes, data, curve, axis, reward, {"color": YARDSTICK, "linewidth": 4.5, "zorder": 2}, bars=False
        )
    for curve in (one for one in every if one.method == method):
        if curve.strategy.about.role == "tuned":
            look = {"color": BASE_COLOUR, "marker": "o", "markersize": 7, "markerfacecolor": "white", "zorder": 6}
        else:
            look = {**look_of(data, curve.strategy), "zorder": 4}
        if not _is_yardstick(curve):
            cost_curves.line(axes, data, curve, axis, reward, look)
    cost_curves.star(axes, data, axis, reward)
    axes.margins(0.07)


def look_of(data: ReportData, strategy: Strategy) -> dict[str, Any]:
    """Colour, line and marker of a strategy on every network; that of the yardstick is dark, as the yardstick itself is
    grey.
    """
    place = [one.name for one in strategies(data) if not one.about.yardstick or one.name != _yardstick_name(data)]
    if strategy.name not in place:
        return {"color": BASE_COLOUR, "linestyle": "-", "linewidth": 1.4, "marker": "o", "markersize": 4}
    n = place.index(strategy.name)
    return {
        "color": COLOURS[n % len(COLOURS)], "linestyle": strategy.line, "linewidth": 1.3,
        "marker": MARKERS[n % len(MARKERS)], "markersize": 5, "markeredgewidth": 0,
    }  # fmt: skip


def _is_yardstick(curve: Curve) -> bool:
    return curve.method == BASE and curve.strategy.about.yardstick


def _has(data: ReportData) -> bool:
    return bool(_yardstick_name(data))


def _yardstick_name(data: ReportData) -> str:
    from stages.report import cost_curves

    return next((curve.strategy.name for curve in cost_curves.curves(data) if _is_yardstick(curve)), "")


def _yardstick(data: ReportData) -> str:
    return f"base, {data.look.strategy(_yardstick_name(data)).label}" if _has(data) else ""


def name(data: ReportData, method: str) -> str:
    return "base" if method == BASE else data.look.method(method)
