"""Every method against the reference: the best-reward gap at no less diversity, one row per method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stages.report.data import ReportData
    from stages.report.findings import Finding

ABOUT = FigureAbout(
    "Advantage over the reference at no less diversity",
    files=("advantage.svg", "advantage.png"),
    table="plots/advantage.csv",
    section="frontier",
    place=15,
    alt="The best-reward gap of every method to the reference method, one panel per reward, with intervals.",
)

BAR = 1.6
"""Width of the bars, in points."""


def caption(data: ReportData) -> str:
    """How to read the figure."""
    reference, diversity = data.look.method(data.look.reference), data.look.metric(_diversity(data))
    return (
        f"How much more reward a method's curve has than {reference}'s at no less {diversity}, averaged over the "
        f"diversities that {reference} gives up: to the right of the line the method is the better one. Bars: "
        f"{data.study.report.interval:.0%} intervals over prompts, for each row by itself; faint dots: single training "
        "seeds. With one seed the bar does not know how far seeds differ."
    )


def shown(data: ReportData) -> bool:
    """Only where a method can be compared with the reference."""
    return bool(data.findings.select("best_gap"))


def draw(data: ReportData) -> Figure:
    """One panel per reward, one row per method, in the order of the study."""
    from stages.report import style

    style.use()
    import matplotlib.pyplot as plt

    rewards, methods = data.study.report.rewards, _methods(data)
    figure, grid = plt.subplots(
        1, len(rewards), figsize=(2.6 * len(rewards) + 1.6, 0.3 * len(methods) + 1.1), squeeze=False, sharey=True
    )
    for axes, reward in zip(grid[0], rewards, strict=True):
        _panel(axes, data, reward, methods)
    grid[0][0].set_yticks(range(len(methods)), [_label(data, name) for name in methods])
    grid[0][0].set_ylim(len(methods) - 0.5, -0.5)
    figure.tight_layout(w_pad=1.4)
    return figure


def rows(data: ReportData) -> list[dict[str, object]]:
    """Every best-reward gap, of all diversities of the report, with its interval and single seeds."""
    return [
        {"method": one.method, "against": one.against, "reward": one.metric, "diversity": one.at_equal,
         "gap": one.mean, "low": one.low, "high": one.high, "seeds": " ".join(f"{value:.6g}" for value in one.per_seed)}
        for one in data.findings.select("best_gap")
    ]  # fmt: skip


def _panel(axes: Axes, data: ReportData, reward: str, methods: list[str]) -> None:
    gaps = _gaps(data, reward)
    axes.axvline(0, color="black", linewidth=0.9, alpha=0.6, zorder=1)
    for place, name in enumerate(methods):
        one, colour = gaps[name], data.look.colour(name)
        axes.plot([one.low, one.high], [place, place], color=colour, linewidth=BAR, zorder=3)
        axes.plot(one.mean, place, data.look.marker(name), color=colour, markersize=6, zorder=4)
        if len(one.per_seed) > 1:
            axes.plot(one.per_seed, [place] * len(one.per_seed), ".", color=colour, alpha=0.45, markersize=6, zorder=2)
    axes.set_title(data.look.metric(reward), loc="left")
    axes.set_xlabel("best-reward gap")
    axes.locator_params(axis="x", nbins=5)


def _gaps(data: ReportData, reward: str) -> dict[str, Finding]:
    wanted = (reward, _diversity(data))
    return {one.method: one for one in data.findings.select("best_gap") if one.axes == wanted}


def _methods(data: ReportData) -> list[str]:
    compared = {one.method for one in data.findings.select("best_gap")}
    return [name for name in data.look.methods if name in compared]


def _label(data: ReportData, method: str) -> str:
    seeds = len(data.evaluation.seeds[method])
    return f"{data.look.method(method)} ({seeds} seed{'s' if seeds > 1 else ''})"


def _diversity(data: ReportData) -> str:
    """That of the main pair, else the first of the report."""
    main = data.study.report.main_pair
    return main[1] if main else data.study.report.diversities[0]
