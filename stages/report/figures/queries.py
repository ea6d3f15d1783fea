"""Rewards and diversity of the probe over queries of the training reward: what a method makes of what it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stages.report.data import ReportData

ABOUT = FigureAbout(
    "Reward against queries",
    files=("queries.svg", "queries.png"),
    section="training",
    place=31,
    alt="Rewards and diversity of the same probe over queries of the training reward, one line per method.",
    standard=True,
)


def caption(data: ReportData) -> str:
    """What is counted."""
    return (
        "The same probe over the number of images that a run had queried its training reward for until then: what "
        "counts where every query costs money or a person's time. One line per method, the mean of its training seeds; "
        "bands reach from the lowest seed to the highest. Where a method learns between two queries, the last probe "
        "before the next ones is shown; the probe's own queries are not counted."
    )


def shown(data: ReportData) -> bool:
    """Only where a training log counts queries."""
    from stages.report import probes

    return probes.counted(data.log)


def draw(data: ReportData) -> Figure:
    """One panel per probe term over queries, one line per method with its seeds as a band."""
    from stages.report import probes

    def panel(axes: Axes, term: str) -> None:
        for method in data.look.methods:
            _line(axes, data, method, term)

    names = probes.terms(data.study, data.log) if shown(data) else ()
    nothing = "no training log counts queries"
    handles = probes.method_handles(data.look)
    return probes.panels(names, data.look, "queries of the training reward", nothing, panel, handles)


def _line(axes: Axes, data: ReportData, method: str, term: str) -> None:
    from stages.report import probes

    found, look = probes.query_curve(data.study, data.log, method, term), data.look
    if found is None:
        return
    axes.fill_between(
        found.queries, found.low, found.high, color=look.colour(method), alpha=0.15, linewidth=0, zorder=2
    )
    probes.draw_line(axes, look, method, found.queries, found.mean)
