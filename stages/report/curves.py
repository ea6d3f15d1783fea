"""Which points make a curve: a method under one strategy, from the tuned model to the base."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.report.load import BASE, Evaluation, Point
from stages.report.settings import ReportStudy


@dataclass(frozen=True)
class Stop:
    """One point of a curve. `own` is false for its ends, which belong to the tuned model or the base."""

    point: Point
    text: str
    own: bool = True


@dataclass(frozen=True)
class Curve:
    """One method under one strategy; `kind` is the strategy's kind, `guided` whether its base part is guided."""

    method: str
    strategy: str
    kind: str
    guided: bool
    stops: tuple[Stop, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """The points alone, in the order of the curve."""
        return tuple(stop.point for stop in self.stops)

    @property
    def inner(self) -> tuple[Stop, ...]:
        """What a figure draws: all of combined generation, else from the first own stop to the last, whose ends the
        curve of combined generation shows already."""
        if self.kind == "combined":
            return self.stops
        own = [index for index, stop in enumerate(self.stops) if stop.own]
        return self.stops[own[0] : own[-1] + 1]


def curve(study: ReportStudy, evaluation: Evaluation, method: str, strategy: str) -> Curve | None:
    """The curve of a method under a strategy, or None where nothing of it was measured.

    Combined generation runs from k = 0 (the tuned model) to k = T (the base); AIG from p near 0 (tuned) to large p
    (base); RLG from w = 0 (base) over w = 1 (tuned) on; fusion ends at the base (k = T) and holds the tuned model's own
    images nowhere. The base end is there where the base was sampled at that guidance.
    """
    view = study.sample.strategies[strategy]
    letter = {"combined": "", "aig": "p", "rlg": "w", "fusion": "k"}[view.kind]
    values = evaluation.values(method, strategy)
    own = [Stop(Point(method, strategy, value), f"{letter}{value:g}") for value in values]
    if not own:
        return None
    base = Point(BASE, "guidance", view.base_guidance)
    ends = [Stop(base, "", own=False)] if base in evaluation.labels else []
    tuned = tuned_point(study, evaluation, method)
    starts = [Stop(tuned, "0" if view.kind == "combined" else "", own=view.kind == "combined")] if tuned else []
    if view.kind == "rlg":
        weighed = [(stop.point.value, stop) for stop in own]
        weighed += [(1.0, stop) for stop in starts] + [(0.0, stop) for stop in ends]
        stops = tuple(stop for _, stop in sorted(weighed, key=lambda pair: pair[0]))
    elif view.kind == "fusion":
        stops = (*own, *ends)
    else:
        stops = (*starts, *own, *ends)
    return Curve(method, strategy, view.kind, view.base_guidance > 1, stops)


def combined(study: ReportStudy, evaluation: Evaluation, method: str) -> Curve | None:
    """The curve of a method under the study's first strategy of combined generation."""
    names = study.strategies_of_kind("combined")
    return curve(study, evaluation, method, names[0]) if names else None


def strategies(study: ReportStudy, evaluation: Evaluation, methods: Iterable[str]) -> list[Curve]:
    """Every curve of some methods, strategy by strategy."""
    kinds = ("combined", "aig", "rlg", "fusion")
    names = [name for name, view in study.sample.strategies.items() if view.kind in kinds]
    found = [curve(study, evaluation, method, name) for method in methods for name in names]
    return [one for one in found if one is not None]


def guidance(evaluation: Evaluation) -> Curve:
    """The base model over its guidance scales."""
    stops = tuple(
        Stop(Point(BASE, "guidance", g), "" if g == 1 else f"g{g:g}") for g in evaluation.values(BASE, "guidance")
    )
    return Curve(BASE, "guidance", "guidance", False, stops)


def tuned_point(study: ReportStudy, evaluation: Evaluation, method: str) -> Point | None:
    """The tuned model alone, where it was sampled; without guidance when there is a choice."""
    for name in study.strategies_of_kind("tuned"):
        values = evaluation.values(method, name)
        if values:
            return Point(method, name, values[0])
    return None


def middle(curve: Curve) -> Point:
    """The own point in the middle of a curve (the lower of two): shown where there is room for one only."""
    own = [stop.point for stop in curve.stops if stop.own and stop.point.strategy == curve.strategy]
    return own[(len(own) - 1) // 2]
