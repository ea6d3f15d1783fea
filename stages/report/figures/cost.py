"""Reward against what an image costs: network evaluations, reward queries and seconds, one line per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.report.cost_curves import AXES, Axis, curves, line, logarithmic, mean, star
from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stages.report.curves import Curve
    from stages.report.data import ReportData

ABOUT = FigureAbout(
    "Reward against cost",
    files=("cost.svg", "cost.png"),
    table="plots/cost.csv",
    section="cost",
    kept=True,
    place=40,
    alt="Rewards over network evaluations, reward queries and seconds per image, one line per method and strategy.",
)


def caption(data: ReportData) -> str:
    """What is counted, and what the yardstick is."""
    titles = (one.about.title for one in data.look.strategies.values() if one.about.yardstick)
    named = " and ".join(dict.fromkeys(titles))
    yardstick = f"The broad line is {named} of the base, the yardstick: a search below it buys less than that. "
    from stages.report import cost_panels

    many = cost_panels.crowded(data)
    apart = "A panel per network: a strategy has one colour on all of them. " if many else ""
    return (
        "Further left is less work for an image, on a logarithmic axis; further up more reward. One line per method "
        f"and strategy over its settings. {apart}{yardstick if named else ''}An evaluation with gradient counts as "
        "three; training is not counted. Seconds are those of the computer that made the images. Strategies that ask "
        "no reward are missing from the panel of queries. "
        f"Bars: {data.study.report.interval:.0%} interval of the paired difference to the base."
    )


def shown(data: ReportData) -> bool:
    """Only where something else than plain sampling was measured."""
    return bool(curves(data))


def draw(data: ReportData) -> Figure:
    """A row of panels per reward of the report, a column per way to count; where there are many lines, a column per
    network.
    """
    from stages.report import cost_panels, legend, style

    if cost_panels.crowded(data):
        return cost_panels.draw(data)
    style.use()
    import matplotlib.pyplot as plt

    rewards = data.study.report.rewards
    size = (4.1 * len(AXES) + 0.6, 3.2 * len(rewards) + 0.4)
    figure, grid = plt.subplots(len(rewards), len(AXES), figsize=size, squeeze=False, sharex="col", sharey="row")
    for panels, reward in zip(grid, rewards, strict=True):
        for axes, axis in zip(panels, AXES, strict=True):
            _panel(axes, data, axis, reward)
        panels[0].set_ylabel(data.look.axis(reward))
    for axes, axis in zip(grid[-1], AXES, strict=True):
        axes.set_xlabel(axis.label)
    figure.align_ylabels()
    legend.arrange(figure, handles(data))
    return figure


def rows(data: ReportData) -> list[dict[str, object]]:
    """What an image of every point costs, and its rewards: one row per method, strategy and setting."""
    points = [data.evaluation.base, *(point for curve in curves(data) for point in curve.own)]
    return [
        {
            "method": point.method, "strategy": point.strategy, "setting": data.evaluation.labels[point],
            **{axis.name: axis.of(data.evaluation.costs[point]) for axis in AXES},
            **{reward: mean(data, point, reward) for reward in data.study.report.rewards},
        }
        for point in dict.fromkeys(points)
    ]  # fmt: skip


def _panel(axes: Axes, data: ReportData, axis: Axis, reward: str) -> None:
    logarithmic(axes)
    for curve in curves(data):
        line(axes, data, curve, axis, reward, {"markersize": 5, **drawn(data, curve)})
    star(axes, data, axis, reward)
    axes.margins(0.07)


def drawn(data: ReportData, curve: Curve) -> dict[str, Any]:
    """Colour, line and marker: searches of the base have colours of their own, or they could not be told apart."""
    from stages.report.look import BASE, OTHER_COLOURS

    on_base = [one for one in curves(data) if one.method == BASE and not one.strategy.about.yardstick]
    colour = data.look.colour(curve.method)
    if curve in on_base:
        colour = OTHER_COLOURS[on_base.index(curve) % len(OTHER_COLOURS)]
    yardstick = curve.method == BASE and curve.strategy.about.yardstick
    return {
        "color": colour, "linestyle": "-" if yardstick else curve.strategy.line, "linewidth": 3.0 if yardstick else 1.2,
        "marker": curve.strategy.marker or data.look.marker(curve.method), "markeredgecolor": colour,
        "markerfacecolor": colour if curve.method == BASE else "white", "zorder": 2 if yardstick else 4,
    }  # fmt: skip


def handles(data: ReportData) -> Sequence[Line2D]:
    from matplotlib.lines import Line2D

    from stages.report.look import BASE

    def name(method: str) -> str:
        return "base" if method == BASE else data.look.method(method)

    star = Line2D([], [], color="black", marker="*", markersize=11, linestyle="none", label="base")
    found = [(one, f"{name(one.method)}, {one.strategy.label}") for one in curves(data)]
    return [*(Line2D([], [], markersize=5, label=label, **drawn(data, one)) for one, label in found), star]
