"""The frontier figures: reward against diversity, one panel a (reward, diversity), and their points as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.report import claims, curves, style
from stages.report.claims import Interval
from stages.report.curves import Curve
from stages.report.labels import Label, place
from stages.report.load import BASE, Evaluation, Point
from stages.report.settings import ReportStudy
from stages.report.style import Look
from stages.report.verdict import Bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.typing import LineStyleType

LINES: dict[str, LineStyleType] = {
    "combined": "-",
    "aig": "--",
    "aig guided": "-.",
    "rlg": ":",
    "fusion": (0, (7, 2, 1, 2)),
}


def write_frontier(
    study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap, look: Look, paths: Sequence[Path]
) -> None:
    """Combined generation of every method, and the base over its guidance scales."""
    found = [curves.combined(study, evaluation, method) for method in study.methods]
    drawn = [one for one in found if one is not None]
    ordered = sorted(drawn, key=lambda one: one.method in look.featured)  # labels of the last ones come first
    figure, panels = _panels(study, evaluation, bootstrap, look, ordered, labelled=("combined", "guidance"))
    handles = [_handle(look, one) for one in sorted(drawn, key=lambda one: one.method not in look.featured)]
    _finish(figure, panels, [*handles, *_base_handles()])
    style.save(figure, paths)


def write_strategies(
    study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap, look: Look, paths: Sequence[Path]
) -> None:
    """Every strategy of the reference and of the candidate, and the base over its guidance scales."""
    drawn = curves.strategies(study, evaluation, look.featured)
    figure, panels = _panels(study, evaluation, bootstrap, look, drawn, labelled=("aig", "rlg", "fusion"))
    _finish(figure, panels, [*(_handle(look, one, strategy=True) for one in drawn), *_base_handles()])
    style.save(figure, paths)


def points(study: ReportStudy, evaluation: Evaluation) -> list[dict[str, object]]:
    """The points of all curves: curve, `place` along it, setting, every reward and diversity (mean over everything)."""
    wished = dict.fromkeys([*study.report.rewards, study.study.reward, study.study.heldout, *study.report.diversities])
    axes = [axis for axis in wished if axis and (evaluation.base, axis) in evaluation.arrays]
    rows: list[dict[str, object]] = []
    for one in [*curves.strategies(study, evaluation, study.methods), curves.guidance(evaluation)]:
        name = f"{style.method_name(one.method)} {style.strategy_name(one.strategy)}"
        for index, stop in enumerate(one.stops):
            about = {"curve": name, "method": one.method, "strategy": one.strategy, "place": index}
            scores = {axis: float(np.nanmean(claims.seed_mean(evaluation.scores(stop.point, axis)))) for axis in axes}
            rows.append({**about, "setting": _setting(one, stop, evaluation), **scores})
    return rows


def _setting(one: Curve, stop: curves.Stop, evaluation: Evaluation) -> str:
    if stop.own and stop.point.strategy == one.strategy:
        return evaluation.labels[stop.point]
    return "base" if stop.point.method == BASE else "tuned"


@dataclass
class Panel:
    """One panel, where its points stand, and the labels that are to be written when its size is final."""

    axes: Axes
    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def _panels(
    study: ReportStudy,
    evaluation: Evaluation,
    bootstrap: Bootstrap,
    look: Look,
    drawn: Sequence[Curve],
    labelled: Sequence[str],
) -> tuple[Figure, list[Panel]]:
    """The grid of panels; the featured curves of the `labelled` kinds get labels."""
    import matplotlib.pyplot as plt

    rewards, diversities = study.report.rewards, study.report.diversities
    size = (4.3 * len(diversities) + 0.6, 3.7 * len(rewards) + 0.9)
    figure, grid = plt.subplots(len(rewards), len(diversities), figsize=size, squeeze=False, sharex="col", sharey="row")
    panels = []
    for row, reward in enumerate(rewards):
        for column, diversity in enumerate(diversities):
            panel = Panel(grid[row][column])
            for one in (*reversed(drawn), curves.guidance(evaluation)):
                own = _draw(panel.axes, evaluation, bootstrap, look, one, diversity, reward)
                panel.points += [(across, up) for _, across, up in own]
                if one.kind in labelled and one.method in (*look.featured, BASE):
                    panel.labels += _labels(own, look, one.method)
            panel.points.append(_star(panel.axes, evaluation, diversity, reward))
            panel.axes.margins(0.07)
            if column == 0:
                panel.axes.set_ylabel(look.axis(reward))
            if row == len(rewards) - 1:
                panel.axes.set_xlabel(f"{look.metric(diversity)}  (more diverse →)")
            panels.append(panel)
    figure.align_ylabels()
    return figure, panels


def _draw(
    axes: Axes, evaluation: Evaluation, bootstrap: Bootstrap, look: Look, one: Curve, diversity: str, reward: str
) -> list[tuple[curves.Stop, float, float]]:
    """One curve with intervals and faint points of the single seeds; returns its own stops and where they stand."""
    colour, featured = look.colour(one.method), one.method in look.featured
    points = [stop.point for stop in one.inner]
    x, y = (_intervals(evaluation, bootstrap, points, axis) for axis in (diversity, reward))
    across, up = [v.mean for v in x], [v.mean for v in y]
    axes.errorbar(across, up, xerr=_reach(x), yerr=_reach(y), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.28)
    strong = featured and one.kind == "combined"
    axes.plot(
        across, up, linestyle=_line(one), color=colour, linewidth=1.9 if strong else 1.2, zorder=4 if featured else 3
    )
    own = [(stop, a, b) for stop, a, b in zip(one.inner, across, up, strict=True) if stop.own]
    axes.plot(
        [a for _, a, _ in own], [b for _, _, b in own], linestyle="none", marker=_marker(look, one),
        markersize=4.6 if featured else 3.4, markeredgecolor=colour, markeredgewidth=0.9, zorder=5,
        markerfacecolor=colour if one.kind in ("combined", "guidance") else "white",
    )  # fmt: skip
    _seed_points(axes, evaluation, points, diversity, reward, colour)
    return own


def _seed_points(
    axes: Axes, evaluation: Evaluation, points: Sequence[Point], diversity: str, reward: str, colour: str
) -> None:
    for point in points:
        across, up = (np.nanmean(evaluation.scores(point, axis), axis=1) for axis in (diversity, reward))
        if len(across) > 1:
            axes.plot(across, up, ".", color=colour, markersize=3.2, alpha=0.35, zorder=3)


def _labels(own: Sequence[tuple[curves.Stop, float, float]], look: Look, method: str) -> list[Label]:
    """Each point's setting: below left of the reference, below the base, else above right; the curve's ends first."""
    toward = {look.reference: "sw", BASE: "s"}.get(method, "ne")
    found = [Label(stop.text, across, up, look.colour(method), toward) for stop, across, up in own if stop.text]
    return [*found[:1], *found[:0:-1]]


def _star(axes: Axes, evaluation: Evaluation, diversity: str, reward: str) -> tuple[float, float]:
    across, up = (float(np.nanmean(evaluation.scores(evaluation.base, axis))) for axis in (diversity, reward))
    axes.plot(across, up, "*", color="black", markersize=13, markeredgecolor="white", markeredgewidth=0.8, zorder=7)
    return across, up


def _intervals(evaluation: Evaluation, bootstrap: Bootstrap, points: Sequence[Point], metric: str) -> list[Interval]:
    """Each point's mean, with the interval of its paired difference to the base around it: prompts differ among
    themselves by more than methods do, and that is no uncertainty of a comparison on the same prompts."""
    base, found = evaluation.scores(evaluation.base, metric), []
    for point in points:
        scores = evaluation.scores(point, metric)
        mean = float(claims.means(bootstrap.draws, scores)[0])
        away = Interval.of(claims.difference(bootstrap.draws, scores, base), bootstrap.level)
        found.append(Interval(mean, mean + away.low - away.mean, mean + away.high - away.mean))
    return found


def _reach(values: Sequence[Interval]) -> np.ndarray:
    """Distances down and up to the ends of the intervals, shape (2, points)."""
    pairs = np.array([(v.mean - v.low, v.high - v.mean) for v in values]).T
    return np.nan_to_num(np.maximum(pairs, 0.0))


def _line(one: Curve) -> LineStyleType:
    if one.kind == "guidance":
        return "-"
    return LINES.get(f"{one.kind} guided" if one.guided and one.kind == "aig" else one.kind, "-")


def _marker(look: Look, one: Curve) -> str:
    if one.method == BASE:
        return "h"
    return {"aig": "D" if one.guided else "s", "rlg": "^", "fusion": "v"}.get(one.kind, look.marker(one.method))


def _handle(look: Look, one: Curve, strategy: bool = False) -> Line2D:
    from matplotlib.lines import Line2D

    name = style.method_name(one.method)
    colour = look.colour(one.method)
    return Line2D(
        [], [], color=colour, linestyle=_line(one), marker=_marker(look, one), markersize=5, markeredgecolor=colour,
        markerfacecolor=colour if one.kind == "combined" else "white",
        label=f"{name}, {style.strategy_name(one.strategy)}" if strategy else name,
    )  # fmt: skip


def _base_handles() -> list[Line2D]:
    from matplotlib.lines import Line2D

    grey = style.BASE_COLOUR
    return [
        Line2D([], [], color=grey, marker="h", markersize=5, label="base, guidance scales"),
        Line2D([], [], color="black", marker="*", markersize=11, linestyle="none", label="base (k = T)"),
    ]


def _finish(figure: Figure, panels: Sequence[Panel], handles: Sequence[Line2D]) -> None:
    """One legend above all panels, at most two rows of it; then the labels, for which sizes must be final."""
    height = figure.get_size_inches()[1]
    columns = len(handles) if len(handles) <= 8 else -(-len(handles) // 2)
    rows = -(-len(handles) // columns)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.22 * rows + 0.12) / height), h_pad=1.2, w_pad=1.4)
    figure.legend(
        handles=list(handles), loc="upper center", ncols=columns, fontsize=9, handlelength=2.6, columnspacing=1.5,
        borderpad=0.1,
    )  # fmt: skip
    for panel in panels:
        place(panel.axes, panel.labels, panel.points)
