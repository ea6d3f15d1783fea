"""Over-optimisation: what the probe saw while training went on, one line a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.report import style
from stages.report.load import Log, Series
from stages.report.settings import ReportStudy
from stages.report.style import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROBE = "probe_"
DASHES = ("-", "--", ":", "-.")
ENTRIES = 11  # of the legend in a row; more would run off the figure
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


def probes(study: ReportStudy, log: Log) -> tuple[str, ...]:
    """The probe terms in the order of the panels: training reward, held-out reward, other rewards, diversity."""
    found = {term for terms in log.values() for term in terms if term.startswith(PROBE)}
    wished = dict.fromkeys([study.study.reward, study.study.heldout, *study.report.rewards])
    first = [f"{PROBE}{name}" for name in wished if f"{PROBE}{name}" in found]
    last = [f"{PROBE}diversity"] if f"{PROBE}diversity" in found else []
    return (*first, *sorted(found - set(first) - set(last)), *last)


def turns(study: ReportStudy, log: Log) -> list[Turn]:
    """Every run's rewards that it was not trained on, in the order of the panels."""
    trained = f"{PROBE}{study.study.reward}"
    others = [term for term in probes(study, log) if term not in (trained, f"{PROBE}diversity")]
    found = []
    for run, terms in log.items():
        if trained not in terms:
            continue
        for term in (term for term in others if term in terms):
            probe, leading = terms[term], terms[trained]
            best = int(np.argmax(probe.values))
            at_best = np.interp(probe.steps[best], leading.steps, leading.values)
            gain, fall = probe.values[best] - probe.values[0], probe.values[best] - probe.values[-1]
            rising = bool(leading.values[-1] > at_best)
            reward = term.removeprefix(PROBE)
            found.append(Turn(run, reward, int(probe.steps[best]), float(gain), float(fall), rising))
    return found


def rows(study: ReportStudy, log: Log) -> list[dict[str, object]]:
    """The probes in wide form: run, method, seed, step, and one column a probe term."""
    terms = probes(study, log)
    found: list[dict[str, object]] = []
    for run, view in study.runs.items():
        mine = [log[run].get(term, Series(np.array([], int), np.array([]))) for term in terms]
        by_step = [dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)) for series in mine]
        for step in sorted({step for values in by_step for step in values}):
            probed = {term: values.get(step, float("nan")) for term, values in zip(terms, by_step, strict=True)}
            found.append({"run": run, "method": view.method, "seed": view.seed, "step": step, **probed})
    return found


def write_training(study: ReportStudy, log: Log, look: Look, paths: Sequence[Path]) -> None:
    """One panel a probe term over optimizer steps; the batch reward stands faint behind the training reward's probe."""
    import matplotlib.pyplot as plt

    terms = probes(study, log)
    columns = min(len(terms), 4) or 1
    lines = -(-len(terms) // columns) or 1
    figure, grid = plt.subplots(lines, columns, figsize=(3.6 * columns + 0.4, 3.3 * lines + 0.5), squeeze=False)
    for axes in grid.flat[len(terms) :]:
        axes.set_visible(False)
    for axes, term in zip(grid.flat, terms, strict=False):
        for run in study.runs:
            _line(axes, study, log, look, run, term)
        axes.set_title(title(look, term), loc="left")
        axes.set_xlabel("optimizer steps")
    legend(figure, study, look)
    style.save(figure, paths)


def _line(axes: Axes, study: ReportStudy, log: Log, look: Look, run: str, term: str) -> None:
    view = study.runs[run]
    seeds = sorted(other.seed for other in study.runs.values() if other.method == view.method)
    dash = DASHES[seeds.index(view.seed) % len(DASHES)]
    colour, featured = look.colour(view.method), view.method in look.featured
    batch = log[run].get("reward")
    if batch and term == f"{PROBE}{study.study.reward}":
        axes.plot(batch.steps, smooth(batch.values), color=colour, linewidth=0.8, alpha=0.25, zorder=1)
    probe = log[run].get(term)
    if probe:
        axes.plot(
            probe.steps, probe.values, color=colour, linestyle=dash, marker=look.marker(view.method), markersize=3.2,
            linewidth=1.8 if featured else 1.2, zorder=4 if featured else 3, alpha=1.0 if featured else 0.85,
        )  # fmt: skip


def smooth(values: np.ndarray, reach: int = 4) -> np.ndarray:
    """Mean over up to `reach` neighbours on either side, fewer at the ends; shape as `values`."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def title(look: Look, term: str) -> str:
    """The title of the panel of a probe term."""
    name = term.removeprefix(PROBE)
    return "diversity (held-out features)" if name == "diversity" else look.axis(name)


def legend(figure: Figure, study: ReportStudy, look: Look, seeds: bool = True) -> None:
    """Above the panels: a line a method and, where `seeds`, a dash a training seed."""
    from matplotlib.lines import Line2D

    methods = sorted(study.methods, key=lambda method: method not in look.featured)
    handles = [
        Line2D([], [], color=look.colour(m), marker=look.marker(m), markersize=4, label=style.method_name(m))
        for m in methods
    ]
    every = sorted({view.seed for view in study.runs.values()})
    if seeds and len(every) > 1:
        styles = zip(every, DASHES, strict=False)
        handles += [Line2D([], [], color=style.MUTED, linestyle=dash, label=f"seed {seed}") for seed, dash in styles]
    height = figure.get_size_inches()[1]
    rows = -(-len(handles) // ENTRIES)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.22 * rows + 0.12) / height), w_pad=1.6)
    columns = -(-len(handles) // rows)
    figure.legend(handles=handles, loc="upper center", ncols=columns, fontsize=9, columnspacing=1.5, borderpad=0.1)
