"""What is settled when: the open share of every diversity, attribute and reward over the index of the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from stages.decided.shares import Share
    from stages.report.data import ReportData
    from stages.report.look import Look

ABOUT = FigureAbout(
    "What is settled when",
    files=("decided.svg", "decided.png"),
    table="plots/decided.csv",
    section="training",
    place=35,
    alt="The open share of diversities, attributes and rewards over the index of the sampling step, one line each.",
    needs="decided",
)
TITLES = {"diversity": "diversities", "attribute": "attributes", "score": "rewards"}
"""Panels, by the kind of what they show."""
TOP = 1.3
"""Upper end of the axis: shares of small variances are noisy, and may exceed 1."""


def caption(data: ReportData) -> str:
    """How to read the figure."""
    starts = "; ".join(f"{name} starts at {start:.2f} T" for name, start in _starts(data))
    return (
        "From the base's own states the rest of the trajectory is drawn again with other noise. The open share is what "
        "two such images of one state still differ by, relative to independent images of the prompt: distance for "
        "diversities, variance for attributes and rewards. 1 is all open, 0 all settled. Training prompts; bands: "
        f"{data.study.measure.interval:.0%} intervals over prompts; shares above {TOP:g} are cut off."
        f"{f' Dashed: {starts}.' if starts else ''}"
    )


def draw(data: ReportData) -> Figure:
    """One panel per kind, one line per quantity, a vertical line at the start of every method that has one."""
    from stages.report import legend, style

    style.use()
    import matplotlib.pyplot as plt

    kinds = [kind for kind in TITLES if any(one.kind == kind for one in _shown(data))]
    figure, grid = plt.subplots(
        1, len(kinds) or 1, figsize=(3.9 * (len(kinds) or 1) + 0.4, 3.6), squeeze=False, sharey=True
    )
    handles: list[Line2D] = []
    for axes, kind in zip(grid[0], kinds, strict=False):
        handles += _panel(axes, data, kind, len(handles))
        axes.set_title(TITLES[kind], loc="left")
        axes.set_xlabel("index of the sampling step, share of T")
    grid[0][0].set_ylabel("open share")
    legend.arrange(figure, [*handles, *_start_handles(data)])
    return figure


def rows(data: ReportData) -> list[dict[str, object]]:
    """Every share: index, its part of T, training timestep, kind, quantity, share with its interval."""
    return [
        {"index": one.index, "of_T": one.index / data.evaluation.steps, "timestep": one.timestep, "kind": one.kind,
         "quantity": one.quantity, "share": one.interval.mean, "low": one.interval.low, "high": one.interval.high}
        for one in data.decided
    ]  # fmt: skip


def _shown(data: ReportData) -> list[Share]:
    """Diversities, attributes, and of the scores the rewards."""
    return [one for one in data.decided if one.kind != "score" or one.quantity in data.look.rewards]


def _panel(axes: Axes, data: ReportData, kind: str, first: int) -> list[Line2D]:
    from stages.report.look import LINES, OTHER_COLOURS, REFERENCE_COLOUR

    colours, found = (REFERENCE_COLOUR, *OTHER_COLOURS), []
    mine = [one for one in _shown(data) if one.kind == kind]
    for place, name in enumerate(dict.fromkeys(one.quantity for one in mine), first):
        line = [one for one in mine if one.quantity == name]
        x = [one.index / data.evaluation.steps for one in line]
        colour, dash = colours[place % len(colours)], LINES[place // len(colours) % len(LINES)]
        low, high = ([getattr(one.interval, end) for one in line] for end in ("low", "high"))
        if None not in (*low, *high):
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)
        found += axes.plot(
            x, [one.interval.mean for one in line], color=colour, linestyle=dash, marker=".", markersize=3,
            label=_label(data.look, kind, name), zorder=3,
        )  # fmt: skip
    for _, start in _starts(data):
        axes.axvline(start, color="black", linestyle="--", linewidth=0.9, alpha=0.6, zorder=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, TOP)
    return found


def _label(look: Look, kind: str, name: str) -> str:
    return name if kind == "attribute" else look.metric(name)


def _starts(data: ReportData) -> list[tuple[str, float]]:
    """Methods that start on the way, with the index as a share of the steps of their rollouts."""
    found = []
    for method in data.look.methods:
        own = data.study.methods_by_name.get(method)
        steps = (own.model_dump().get("train") or {}).get("sampling_steps") if own else None
        start = data.starts.get(method)
        if start is not None:
            found.append((data.look.method(method), start / (steps or data.study.finetune.sampling_steps)))
    return found


def _start_handles(data: ReportData) -> list[Line2D]:
    from matplotlib.lines import Line2D

    if not data.starts:
        return []
    label = ", ".join(f"start of {name} ({start:.2f} T)" for name, start in _starts(data))
    return [Line2D([], [], color="black", linestyle="--", linewidth=0.9, label=label)]
