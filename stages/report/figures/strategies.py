"""Reward against diversity: the reference method and the candidate under every strategy of the study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stages.report.curves import Curve, Stop
    from stages.report.data import ReportData

ABOUT = FigureAbout(
    "Every strategy",
    files=("strategies.svg", "strategies.png"),
    section="strategies",
    place=20,
    alt="Reward against diversity for every strategy of the reference method and of the candidate.",
    standard=True,
)


def caption(data: ReportData) -> str:
    """What the strategies do, in their own words."""
    look = data.look
    methods = " and ".join(look.method(name) for name in look.featured)
    others = [one.about for one in look.strategies.values() if one.about.role == "curve" and not one.about.leading]
    drawn = dict.fromkeys(others)
    words = " ".join(about.caption for about in drawn if about.caption)
    leading = f" Curves of {look.leading.label} as above, without their numbers." if look.leading else ""
    return f"{methods} under every strategy of the study. {words}{leading}"


def draw(data: ReportData) -> Figure:
    """One curve per featured method and strategy."""
    from stages.report import panels
    from stages.report.curves import strategies

    look = data.look
    drawn = strategies(look, data.evaluation, look.featured)
    handles = [panels.handle(look, one, f"{look.method(one.method)}, {one.strategy.label}") for one in drawn]
    return panels.draw(data, drawn, handles, _text)


def _text(curve: Curve, stop: Stop) -> str:
    about = curve.strategy.about
    return "" if stop.end or about.leading or about.role == "base" else f"{about.letter}{stop.at:g}"
