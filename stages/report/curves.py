"""Which points make a curve: one method under one strategy, between the ends that the strategy names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.about import End
from stages.report.look import BASE, Look, Strategy
from stages.report.measurements import Measurements, Point


@dataclass(frozen=True)
class Stop:
    """One point of a curve: `at` is the value of the strategy's free setting, infinite for a limit.

    `setting` is its name in tables; `end` marks an end of the curve that was sampled under another strategy.
    """

    point: Point
    at: float
    setting: str
    end: bool = False


@dataclass(frozen=True)
class Curve:
    """One method under one strategy, ordered by the strategy's free setting."""

    method: str
    strategy: Strategy
    stops: tuple[Stop, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """The points alone, in the order of the curve."""
        return tuple(stop.point for stop in self.stops)

    @property
    def own(self) -> tuple[Point, ...]:
        """The points that were sampled under the strategy itself."""
        return tuple(stop.point for stop in self.stops if not stop.end)

    @property
    def inner(self) -> tuple[Stop, ...]:
        """The stops from the first own one to the last: what is drawn of a curve whose ends another curve shows."""
        own = [index for index, stop in enumerate(self.stops) if not stop.end]
        return self.stops[own[0] : own[-1] + 1]

    @property
    def middle(self) -> Point:
        """The own point in the middle (the lower of two): shown where there is room for one only."""
        return self.own[(len(self.own) - 1) // 2]


def curve(look: Look, evaluation: Measurements, method: str, strategy: Strategy) -> Curve | None:
    """The curve of a method under a strategy; None where nothing of it was measured.

    An end stands where the strategy's `ABOUT` has it (`plain`: the run's own network alone, `base`: the base alone), if
    it was sampled: the base at the guidance scale that the strategy gives it.
    """
    about = strategy.about
    values = evaluation.values(method, strategy.name)
    if not values:
        return None
    points = (Point(method, strategy.name, value) for value in values)
    own = [Stop(point, point.value, evaluation.labels[point]) for point in points]
    base = Point(BASE, evaluation.base.strategy, strategy.base_guidance)
    alone = Point(BASE, evaluation.base.strategy, strategy.guidance)
    plain = alone if method == BASE else tuned_point(look, evaluation, method)
    starts = _end(about.plain, plain, "base" if method == BASE else "tuned", evaluation)
    ends = _end(about.base if method != BASE else None, base, "base", evaluation)
    return Curve(method, strategy, tuple(sorted([*starts, *own, *ends], key=lambda stop: stop.at)))


def _end(end: End | None, point: Point | None, setting: str, evaluation: Measurements) -> list[Stop]:
    if end is None or point is None or point not in evaluation.labels:
        return []
    return [Stop(point, end.at, setting, end=True)]


def leading(look: Look, evaluation: Measurements, method: str) -> Curve | None:
    """The curve by which a method is compared with others; None where the study has no such strategy."""
    return curve(look, evaluation, method, look.leading) if look.leading else None


def strategies(look: Look, evaluation: Measurements, methods: Iterable[str]) -> list[Curve]:
    """Every curve of some methods, method by method."""
    drawn = [strategy for strategy in look.strategies.values() if strategy.about.role == "curve"]
    found = [curve(look, evaluation, method, strategy) for method in methods for strategy in drawn]
    return [one for one in found if one is not None]


def base_curves(look: Look, evaluation: Measurements) -> list[Curve]:
    """The base model over its guidance scales, and under every strategy that it was sampled with."""
    scales = curve(look, evaluation, BASE, look.strategy(evaluation.base.strategy))
    return [*([scales] if scales else []), *strategies(look, evaluation, [BASE])]


def tuned_point(look: Look, evaluation: Measurements, method: str) -> Point | None:
    """The tuned network alone, where it was sampled; at the lowest of several settings."""
    for strategy in look.strategies.values():
        if strategy.about.role == "tuned" and (values := evaluation.values(method, strategy.name)):
            return Point(method, strategy.name, values[0])
    return None
