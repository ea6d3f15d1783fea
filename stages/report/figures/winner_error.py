"""Denoising error of preferred and other images against the reference, over optimizer steps: a panel per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stages.about import LineStyle
from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stages.report.data import Logged
    from stages.report.measurements import Series

ABOUT = FigureAbout(
    "Error of winners and losers",
    files=("winner_error.svg", "winner_error.png"),
    table="plots/winner_error.csv",
    section="training",
    logged=True,
    place=32,
    alt="Denoising error of the preferred and of the other image of a pair less the reference's, over optimizer steps.",
)

WINNER, LOSER = "winner_drift", "loser_drift"
SIDES: dict[str, tuple[str, str, LineStyle]] = {
    WINNER: ("preferred image", "#0072b2", "-"),
    LOSER: ("other image", "#d55e00", "--"),
}
"""Term of the log: its words, colour and line."""


def caption(data: Logged) -> str:
    """What drifts."""
    return (
        "How much larger the denoising errors of the two images of a pair are than the reference's: above zero the "
        "tuned network denoises them worse than the reference does. Faint lines: every optimizer step; strong lines: "
        "the mean over a tenth of training. The known failure of losses on pairs is that both rise, the other image's "
        "more, so that the margin grows while the preferred image gets worse. Each panel has its own scale. Where the "
        "reference moves with the policy, the drift is that since its last renewal."
    )


def shown(data: Logged) -> bool:
    """Only where a training log has errors against a reference."""
    return bool(_runs(data))


def draw(data: Logged) -> Figure:
    """One panel per method that has the terms; every training seed has its lines."""
    from matplotlib.lines import Line2D

    from stages.report import legend, style
    from stages.report.look import MUTED

    style.use()
    import matplotlib.pyplot as plt

    runs = _runs(data)
    methods = [name for name in data.look.methods if any(data.study.runs[run].method == name for run in runs)]
    columns = min(len(methods), 4) or 1
    lines = -(-len(methods) // columns) or 1
    figure, grid = plt.subplots(lines, columns, figsize=(2.7 * columns + 0.6, 2.2 * lines + 0.5), squeeze=False)
    for axes in grid.flat[len(methods) :]:
        axes.set_axis_off()
    if not methods:
        grid.flat[0].text(0.5, 0.5, "no training log has errors against a reference", ha="center", color=MUTED)
    for axes, method in zip(grid.flat, methods, strict=False):
        _panel(axes, data, [run for run in runs if data.study.runs[run].method == method])
        axes.set_title(data.look.method(method), loc="left")
    handles = [Line2D([], [], color=colour, linestyle=dash, label=words) for words, colour, dash in SIDES.values()]
    legend.arrange(figure, handles, w_pad=1.0)
    return figure


def rows(data: Logged) -> list[dict[str, object]]:
    """Both drifts of every step: run, method, seed, step, winner_drift, loser_drift."""
    found: list[dict[str, object]] = []
    for run in _runs(data):
        view, (winner, loser) = data.study.runs[run], _sides(data, run)
        about = {"run": run, "method": view.method, "seed": view.seed}
        steps, first, second = (values.tolist() for values in (winner.steps, winner.values, loser.values))
        for step, won, lost in zip(steps, first, second, strict=True):
            found.append(about | {"step": step, WINNER: won, LOSER: lost})
    return found


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a tenth of the `values` [n] around each, over fewer at the ends; shape [n]."""
    reach = max(1, len(values) // 20)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _panel(axes: Axes, data: Logged, runs: Sequence[str]) -> None:
    axes.axhline(0, color="black", linewidth=0.8, alpha=0.6, zorder=1)
    for run in runs:
        for series, (_, colour, dash) in zip(_sides(data, run), SIDES.values(), strict=True):
            axes.plot(series.steps, series.values, color=colour, linewidth=0.6, alpha=0.2, zorder=2)
            axes.plot(series.steps, running_mean(series.values), color=colour, linestyle=dash, linewidth=1.6, zorder=3)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("error less the reference's")


def _sides(data: Logged, run: str) -> tuple[Series, Series]:
    return data.log[run][WINNER], data.log[run][LOSER]


def _runs(data: Logged) -> list[str]:
    """The runs whose log has both terms, in the order of the study."""
    return [run for run in data.study.runs if {WINNER, LOSER} <= data.log.get(run, {}).keys()]
