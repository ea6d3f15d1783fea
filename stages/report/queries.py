"""Reward against queries: what a method made of the images that it asked the training reward about, one line a method.

A probe counts for the queries spent before it; of several probes after the same queries the last one does, since what a
method learns between two queries costs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.report import style
from stages.report.load import Log, Series
from stages.report.settings import ReportStudy
from stages.report.style import Look
from stages.report.training import legend, probes, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUERIES = "queries"


@dataclass(frozen=True)
class Curve:
    """A probe of one method over queries [n], ascending: mean, lowest and highest of the training seeds, each [n]."""

    queries: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def counted(log: Log) -> bool:
    """Whether any run counted queries."""
    return any(QUERIES in terms and terms[QUERIES].values.sum() > 0 for terms in log.values())


def spent(terms: Mapping[str, Series], steps: np.ndarray) -> np.ndarray:
    """Queries of one run before each of the optimizer steps [n]; NaN where its log counts none."""
    if QUERIES not in terms:
        return np.full(len(steps), np.nan)
    asked = terms[QUERIES]
    total = np.concatenate([[0.0], np.cumsum(asked.values)])
    return total[np.searchsorted(asked.steps, steps)]


def of_run(terms: Mapping[str, Series], term: str) -> Series | None:
    """The probe `term` of one run over queries in place of steps; None where the run has no probe or no count."""
    if term not in terms or QUERIES not in terms:
        return None
    probe = terms[term]
    last = dict(zip(spent(terms, probe.steps).tolist(), probe.values.tolist(), strict=True))
    return Series(np.array(list(last)), np.array(list(last.values())))


def curve(study: ReportStudy, log: Log, method: str, term: str) -> Curve | None:
    """The probe `term` of a method over its runs, as far as all of them went; None where no run has it.

    A run that was not probed after a number of queries that another one was probed after is taken between its
    neighbours.
    """
    runs = [of_run(log[name], term) for name, view in study.runs.items() if view.method == method]
    found = [series for series in runs if series is not None]
    if not found:
        return None
    every = np.unique(np.concatenate([series.steps for series in found]))
    shared = every[every <= min(series.steps[-1] for series in found)]
    values = np.stack([np.interp(shared, series.steps, series.values) for series in found])
    return Curve(shared, values.mean(0), values.min(0), values.max(0))


def write_queries(study: ReportStudy, log: Log, look: Look, paths: Sequence[Path]) -> None:
    """One panel a probe term over queries, one line a method with its seeds as a band; empty where none are counted."""
    import matplotlib.pyplot as plt

    terms = probes(study, log) if counted(log) else ()
    columns = min(len(terms), 4) or 1
    lines = -(-len(terms) // columns) or 1
    figure, grid = plt.subplots(lines, columns, figsize=(3.6 * columns + 0.4, 3.3 * lines + 0.5), squeeze=False)
    for axes in grid.flat[len(terms) :]:
        axes.set_axis_off()
    if not terms:
        grid.flat[0].text(0.5, 0.5, "no training log counts queries", ha="center", color=style.MUTED)
    for axes, term in zip(grid.flat, terms, strict=False):
        for method in study.methods:
            found = curve(study, log, method, term)
            if found is not None:
                _line(axes, look, method, found)
        axes.set_title(title(look, term), loc="left")
        axes.set_xlabel("queries of the training reward")
    legend(figure, study, look, seeds=False)
    style.save(figure, paths)


def _line(axes: Axes, look: Look, method: str, found: Curve) -> None:
    colour, featured = look.colour(method), method in look.featured
    axes.fill_between(found.queries, found.low, found.high, color=colour, alpha=0.15, linewidth=0, zorder=2)
    axes.plot(
        found.queries, found.mean, color=colour, marker=look.marker(method), markersize=3.2,
        linewidth=1.8 if featured else 1.2, zorder=4 if featured else 3, alpha=1.0 if featured else 0.85,
    )  # fmt: skip
