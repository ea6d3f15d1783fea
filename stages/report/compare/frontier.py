"""The figure: the leading curve of every method of every study, one panel per reward and diversity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stages.report import curves, legend, style
from stages.report.claims import Interval
from stages.report.compare.points import Compared, Finished
from stages.report.look import BASE_COLOUR, CANDIDATE_COLOUR, LINES, MARKERS, OTHER_COLOURS, REFERENCE_COLOUR
from stages.report.measurements import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLOURS = (REFERENCE_COLOUR, CANDIDATE_COLOUR, *OTHER_COLOURS)


@dataclass(frozen=True)
class Drawn:
    """A curve, and how it is drawn: methods by colour, studies by line and marker."""

    study: Finished
    points: tuple[Point, ...]
    label: str
    colour: str
    line: object
    marker: str

    @property
    def format(self) -> dict[str, object]:
        """What matplotlib draws it with."""
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker}


def drawn(compared: Compared) -> Iterator[Drawn]:
    """Every method's leading curve, or the tuned network alone where there is none; then the base of every study."""
    labels = dict.fromkeys(one.look.method(name) for one in compared.studies for name in one.look.methods)
    colours = {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(labels)}
    for index, one in enumerate(compared.studies):
        line, marker = LINES[index % len(LINES)], MARKERS[index % len(MARKERS)]
        for method in one.look.order:
            leading = curves.leading(one.look, one.evaluation, method)
            tuned = curves.tuned_point(one.look, one.evaluation, method)
            points = leading.points if leading else (tuned,) if tuned else ()
            if points:
                label = one.look.method(method)
                yield Drawn(one, points, f"{label} ({one.name})", colours[label], line, marker)
    for index, one in enumerate(compared.studies):
        yield Drawn(
            one, (one.evaluation.base,), f"base ({one.name})", BASE_COLOUR, "none", ("*", "P", "X", "h")[index % 4]
        )


def draw(compared: Compared) -> Figure:
    """The grid of panels."""
    style.use()
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    rewards, diversities, every = compared.rewards, compared.diversities, list(drawn(compared))
    size = (4.3 * len(diversities) + 0.6, 3.7 * len(rewards) + 0.4)
    figure, grid = plt.subplots(len(rewards), len(diversities), figsize=size, squeeze=False, sharex="col", sharey="row")
    look = compared.studies[0].look
    for row, reward in enumerate(rewards):
        for column, diversity in enumerate(diversities):
            axes = grid[row][column]
            for curve in every:
                _add(axes, compared, curve, reward, diversity)
            axes.margins(0.07)
            if column == 0:
                axes.set_ylabel(look.axis(reward))
            if row == len(rewards) - 1:
                axes.set_xlabel(look.axis(diversity))
    figure.align_ylabels()
    handles: list[Line2D] = [Line2D([], [], markersize=5, label=curve.label, **curve.format) for curve in every]  # type: ignore[arg-type]
    legend.arrange(figure, handles)
    return figure


def _add(axes: Axes, compared: Compared, curve: Drawn, reward: str, diversity: str) -> None:
    x, y = ([_around(compared, curve, point, axis) for point in curve.points] for axis in (diversity, reward))
    across, up = [value.mean for value in x], [value.mean for value in y]
    axes.errorbar(
        across, up, xerr=_reach(x), yerr=_reach(y), fmt="none", ecolor=curve.colour, elinewidth=0.8, alpha=0.28
    )
    size = 4.6 if len(curve.points) > 1 else 9
    axes.plot(across, up, markersize=size, linewidth=1.4, zorder=3, **curve.format)  # type: ignore[arg-type]


def _around(compared: Compared, curve: Drawn, point: Point, axis: str) -> Interval:
    """A point's mean, with the interval of its paired difference around it."""
    value = compared.values[curve.study.name, point, axis]
    mean, away = value.estimate.mean, value.difference
    return Interval(mean, mean + away.low - away.mean, mean + away.high - away.mean)


def _reach(values: list[Interval]) -> np.ndarray:
    pairs = np.array([(value.mean - value.low, value.high - value.mean) for value in values]).T
    return np.nan_to_num(np.maximum(pairs, 0.0))
