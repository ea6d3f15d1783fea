"""Reward against diversity: every method under the leading strategy, and the base over its guidance scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.report.curves import Curve, Stop
    from stages.report.data import ReportData

ABOUT = FigureAbout(
    "Reward against diversity",
    files=("frontier.svg", "frontier.png"),
    table="plots/frontier.csv",
    section="frontier",
    place=10,
    alt="Reward against diversity, one panel per (reward, diversity) pair, one curve per method.",
    standard=True,
)


def caption(data: ReportData) -> str:
    """How to read the figure."""
    return (
        "Further up is more reward, further right more diversity: a curve that lies up and to the right of another "
        f"is the better trade-off. {_curves(data)}The grey curve is the base alone over its guidance scales (g): "
        f"what one gets without tuning. Bars: {data.study.report.interval:.0%} interval over prompts of the paired "
        "difference to the base, since all curves rest on the same prompts; faint dots: single training seeds."
    )


def _curves(data: ReportData) -> str:
    """What a curve is, and where its ends are."""
    if data.look.leading is None:
        return "The study has no strategy that methods are compared by: only the base (★) is shown. "
    label, about = data.look.leading.label, data.look.leading.about
    ends = {
        about.plain: "the tuned network alone",
        about.base: f"the base (★, guidance {data.evaluation.base.value:g})",
    }
    known = " and ".join(f"{end.text} is {name}" for end, name in ends.items() if end)
    numbers = f"Numbers are {about.letter}. " if about.letter else ""
    words = f"Each curve is one method under {label}, T = {data.evaluation.steps} steps: {known}. "
    return f"{words}{about.caption} {numbers}"


def draw(data: ReportData) -> Figure:
    """One curve per method over the diversities of the report."""
    return draw_over(data, data.study.report.diversities)


def draw_over(data: ReportData, diversities: Sequence[str]) -> Figure:
    """One curve per method; the labels of the featured methods find a place first."""
    from stages.report import panels
    from stages.report.curves import leading

    look = data.look
    found = [leading(look, data.evaluation, method) for method in look.methods]
    drawn = [curve for curve in found if curve is not None]
    entries = sorted(drawn, key=lambda curve: curve.method not in look.featured)
    handles = [panels.handle(look, curve, look.method(curve.method)) for curve in entries]
    return panels.draw(
        data, sorted(drawn, key=lambda curve: curve.method in look.featured), handles, _text, diversities
    )


def _text(curve: Curve, stop: Stop) -> str:
    """The bare value of the leading strategy's setting; that of the base's curves with its letter, but at the star."""
    if curve.strategy.about.leading:
        return f"{stop.at:g}" if math.isfinite(stop.at) else ""
    return "" if stop.at == 1 else f"{curve.strategy.about.letter}{stop.at:g}"


def rows(data: ReportData) -> list[dict[str, object]]:
    """The points of all curves, of every strategy: curve, `place` along it, setting, every reward and diversity."""
    from stages.report.curves import base_curves, strategies

    look, study, findings = data.look, data.study, data.findings
    wished = dict.fromkeys([*study.report.rewards, study.study.reward, study.study.heldout, *study.report.diversities])
    axes = [axis for axis in wished if axis and (data.evaluation.base, axis) in data.evaluation.arrays]
    found: list[dict[str, object]] = []
    for curve in (*strategies(look, data.evaluation, look.methods), *base_curves(look, data.evaluation)):
        for index, stop in enumerate(curve.stops):
            estimates = {axis: findings.estimate(stop.point, axis) for axis in axes}
            found.append({
                "curve": f"{look.method(curve.method)} {curve.strategy.label}", "method": curve.method,
                "strategy": curve.strategy.name, "place": index, "setting": stop.setting,
                **{axis: one.mean if one else math.nan for axis, one in estimates.items()},
            })  # fmt: skip
    return found
