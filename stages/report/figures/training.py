"""Rewards and diversity of a fixed probe over optimizer steps: over-optimisation shows here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stages.report.data import Logged

ABOUT = FigureAbout(
    "Probes during training",
    files=("training.svg", "training.png"),
    table="plots/training.csv",
    section="training",
    logged=True,
    place=30,
    alt="Rewards and diversity of a fixed probe over optimizer steps, one line per run.",
    standard=True,
)


def caption(data: Logged) -> str:
    """What the probe is."""
    return (
        "A small fixed set of training prompts, sampled again and again during training, with the tuned network "
        "alone. Faint line: mean reward of the training batches. A reward that turns down while the training reward "
        "rises says that the method exploits the training reward's mistakes. Each method is sampled with the sampler "
        "and the steps of its training, so a method whose sampler differs starts elsewhere. The probe is small; the "
        "numbers above rest on all evaluation prompts."
    )


def draw(data: Logged) -> Figure:
    """One panel per probe term, one line per run, with a dash of its own for each training seed of a method."""
    from matplotlib.lines import Line2D

    from stages.report import probes
    from stages.report.look import MUTED

    seeds = sorted({view.seed for view in data.study.runs.values()})
    handles: list[Line2D] = probes.method_handles(data.look)
    if len(seeds) > 1:
        styles = zip(seeds, probes.DASHES, strict=False)
        handles += [Line2D([], [], color=MUTED, linestyle=dash, label=f"seed {seed}") for seed, dash in styles]

    def panel(axes: Axes, term: str) -> None:
        for run in data.study.runs:
            _line(axes, data, run, term)

    names = probes.terms(data.study, data.log)
    return probes.panels(names, data.look, "optimizer steps", "no training log has a probe", panel, handles)


def _line(axes: Axes, data: Logged, run: str, term: str) -> None:
    """A run's probe; the batch reward stands faint behind the probe of the training reward."""
    from stages.report import probes

    view, look, mine = data.study.runs[run], data.look, data.log[run]
    seeds = sorted(other.seed for other in data.study.runs.values() if other.method == view.method)
    dash, colour = probes.DASHES[seeds.index(view.seed) % len(probes.DASHES)], look.colour(view.method)
    batch, probe = mine.get("reward"), mine.get(term)
    if batch and term == f"{probes.PROBE}{data.study.study.reward}":
        axes.plot(batch.steps, smooth(batch.values), color=colour, linewidth=0.8, alpha=0.25, zorder=1)
    if probe:
        probes.draw_line(axes, look, view.method, probe.steps, probe.values, dash)


def smooth(values: np.ndarray, reach: int = 4) -> np.ndarray:
    """Mean over up to `reach` neighbours on either side, fewer at the ends; shape as `values`."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def rows(data: Logged) -> list[dict[str, object]]:
    """The probes in wide form: run, method, seed, step, and one column per probe term."""
    from stages.report import probes
    from stages.report.measurements import Series

    names = probes.terms(data.study, data.log)
    found: list[dict[str, object]] = []
    for run, view in data.study.runs.items():
        mine = [data.log[run].get(term, Series(np.array([], int), np.array([]))) for term in names]
        by_step = [dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)) for series in mine]
        for step in sorted({step for values in by_step for step in values}):
            probed = {term: values.get(step, float("nan")) for term, values in zip(names, by_step, strict=True)}
            found.append({"run": run, "method": view.method, "seed": view.seed, "step": step, **probed})
    return found
