"""What the probe saw while training went on: which rewards turned, and values over steps and over reward queries.

A probe counts for the queries spent before it; of several probes after the same queries the last one does, since what a
method learns between two queries costs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stages.about import LineStyle
from stages.report.look import MUTED, Look
from stages.report.measurements import Log, Series
from stages.report.settings import ReportStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PROBE = "probe_"
QUERIES = "queries"
DIVERSITIES = (f"{PROBE}attribute_diversity", f"{PROBE}diversity")
"""Terms that are no rewards."""
DASHES: tuple[LineStyle, ...] = ("-", "--", ":", "-.")
FALL = 0.1
"""A fall from the best probe counts as over-optimisation from this share of the gain on."""


@dataclass(frozen=True)
class Turn:
    """How a reward that a run was not trained on ended, against its best probe.

    `gain` is best minus first, `fall` best minus last; `rising` says whether the probe of the training reward is higher
    at the end than at `best_step`.
    """

    run: str
    reward: str
    best_step: int
    gain: float
    fall: float
    rising: bool

    @property
    def alarm(self) -> bool:
        """Whether the reward fell while the training reward went on rising."""
        return self.rising and self.fall > FALL * self.gain


@dataclass(frozen=True)
class QueryCurve:
    """A probe of one method over queries [n], ascending: mean, lowest and highest of the training seeds, each [n]."""

    queries: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def terms(study: ReportStudy, log: Log) -> tuple[str, ...]:
    """The probe terms in the order of the panels: training reward, held-out reward, other rewards, diversities."""
    found = {term for terms in log.values() for term in terms if term.startswith(PROBE)}
    wished = dict.fromkeys([study.study.reward, study.study.heldout, *study.report.rewards])
    first = [f"{PROBE}{name}" for name in wished if f"{PROBE}{name}" in found]
    last = [term for term in DIVERSITIES if term in found]
    return (*first, *sorted(found - set(first) - set(last)), *last)


def turns(study: ReportStudy, log: Log) -> list[Turn]:
    """Every run's rewards that it was not trained on, in the order of the panels."""
    trained = f"{PROBE}{study.study.reward}"
    others = [term for term in terms(study, log) if term not in (trained, *DIVERSITIES)]
    found = []
    for run, mine in log.items():
        if trained not in mine:
            continue
        for term in (term for term in others if term in mine):
            probe, leading = mine[term], mine[trained]
            best = int(np.argmax(probe.values))
            at_best = np.interp(probe.steps[best], leading.steps, leading.values)
            gain, fall = probe.values[best] - probe.values[0], probe.values[best] - probe.values[-1]
            rising = bool(leading.values[-1] > at_best)
            reward = term.removeprefix(PROBE)
            found.append(Turn(run, reward, int(probe.steps[best]), float(gain), float(fall), rising))
    return found


def counted(log: Log) -> bool:
    """Whether any run counted queries."""
    return any(QUERIES in mine and mine[QUERIES].values.sum() > 0 for mine in log.values())


def spent(mine: Mapping[str, Series], steps: np.ndarray) -> np.ndarray:
    """Queries of one run before each of the optimizer steps [n]; NaN where its log counts none."""
    if QUERIES not in mine:
        return np.full(len(steps), np.nan)
    queries = mine[QUERIES]
    total = np.concatenate([[0.0], np.cumsum(queries.values)])
    return total[np.searchsorted(queries.steps, steps)]


def over_queries(mine: Mapping[str, Series], term: str) -> Series | None:
    """The probe `term` of one run over queries in place of steps; None where the run has no probe or no count."""
    if term not in mine or QUERIES not in mine:
        return None
    probe = mine[term]
    last = dict(zip(spent(mine, probe.steps).tolist(), probe.values.tolist(), strict=True))
    return Series(np.array(list(last)), np.array(list(last.values())))


def query_curve(study: ReportStudy, log: Log, method: str, term: str) -> QueryCurve | None:
    """The probe `term` of a method over its runs, as far as all of them went; None where no run has it.

    A run that was not probed after a number of queries that another one was probed after is taken between its
    neighbours.
    """
    runs = [over_queries(log[name], term) for name, view in study.runs.items() if view.method == method]
    found = [series for series in runs if series is not None]
    if not found:
        return None
    every = np.unique(np.concatenate([series.steps for series in found]))
    shared = every[every <= min(series.steps[-1] for series in found)]
    values = np.stack([np.interp(shared, series.steps, series.values) for series in found])
    return QueryCurve(shared, values.mean(0), values.min(0), values.max(0))


def panels(
    names: Sequence[str], look: Look, x_label: str, nothing: str, draw: Callable[[Axes, str], None],
    handles: Sequence[Line2D],
) -> Figure:  # fmt: skip
    """One panel per probe term, at most four in a row, and a legend; the words `nothing` where there is no term."""
    from stages.report import legend, style

    style.use()
    import matplotlib.pyplot as plt

    columns = min(len(names), 4) or 1
    lines = -(-len(names) // columns) or 1
    figure, grid = plt.subplots(lines, columns, figsize=(3.6 * columns + 0.4, 3.3 * lines + 0.2), squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    if not names:
        grid.flat[0].text(0.5, 0.5, nothing, ha="center", color=MUTED)
    for axes, term in zip(grid.flat, names, strict=False):
        draw(axes, term)
        axes.set_title(title(look, term), loc="left")
        axes.set_xlabel(x_label)
    legend.arrange(figure, handles, w_pad=1.6)
    return figure


def title(look: Look, term: str) -> str:
    """The title of the panel of a probe term."""
    name = term.removeprefix(PROBE)
    return "diversity (held-out features)" if name == "diversity" else look.axis(name)


def method_handles(look: Look) -> list[Line2D]:
    """An entry of the legend per method, featured ones first."""
    from matplotlib.lines import Line2D

    methods = sorted(look.methods, key=lambda method: method not in look.featured)
    return [
        Line2D([], [], color=look.colour(m), marker=look.marker(m), markersize=4, label=look.method(m)) for m in methods
    ]


def draw_line(axes: Axes, look: Look, method: str, x: np.ndarray, y: np.ndarray, dash: LineStyle = "-") -> None:
    """A line with the colour and marker of a method; featured methods stand out."""
    featured = method in look.featured
    axes.plot(
        x, y, color=look.colour(method), linestyle=dash, marker=look.marker(method), markersize=3.2,
        linewidth=1.8 if featured else 1.2, zorder=4 if featured else 3, alpha=1.0 if featured else 0.85,
    )  # fmt: skip
