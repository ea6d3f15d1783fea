"""The frontier again, over diversity among images that pass: what wrong or broken images add is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.measure.settings import PASSED
from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.report.data import ReportData

ABOUT = FigureAbout(
    "Reward against diversity of passing images",
    files=("frontier_passed.svg", "frontier_passed.png"),
    section="frontier",
    place=11,
    alt="Reward against diversity among images that pass, one panel per (reward, diversity) pair, a curve per method.",
)


def caption(data: ReportData) -> str:
    """How to read the figure."""
    return (
        "The same curves, with diversity measured among the images of a prompt that pass the check of the study (that "
        "they show what the prompt says, or a quality floor). Where a curve lies elsewhere than above, wrong or broken "
        "images made part of its diversity. Prompts with fewer than two such images are left out."
    )


def shown(data: ReportData) -> bool:
    """Only where images were checked."""
    return bool(_diversities(data))


def draw(data: ReportData) -> Figure:
    """The panels of the frontier."""
    from stages.report.figures import frontier

    return frontier.draw_over(data, _diversities(data) or data.study.report.diversities)


def _diversities(data: ReportData) -> list[str]:
    """Those of the report among passing images, as far as they were measured for the base."""
    passed = (f"{name.removesuffix(PASSED)}{PASSED}" for name in data.study.report.diversities)
    return [name for name in dict.fromkeys(passed) if data.findings.estimate(data.evaluation.base, name)]
