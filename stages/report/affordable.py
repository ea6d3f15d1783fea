"""What is to be had for a budget per image: points of curves within it, and the frontier of reward and diversity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.report.cost_curves import Axis
    from stages.report.curves import Curve
    from stages.report.data import ReportData
    from stages.report.load import Point

MOST = 4
"""Budgets that the yardstick gives a row, the largest ones; named ones are all drawn."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class Budget:
    """A way to count costs, and the most that an image may cost."""

    axis: Axis
    most: float


@dataclass(frozen=True)
class Affordable:
    """What a curve has within a budget: its points, and among them those that cost most, which use the budget best."""

    curve: Curve
    points: tuple[Point, ...]
    dearest: tuple[Point, ...]


def pair(data: ReportData) -> tuple[str, str]:
    """The reward and the diversity of the panels: those that decide the study, or the first ones of the report."""
    report = data.study.report
    return report.main_pair or (report.rewards[0], report.diversities[0])


def budgets(data: ReportData) -> list[list[Budget]]:
    """The budgets of each way to count that has any, in ascending order."""
    from stages.report.cost_curves import AXES, curves
    from stages.report.look import BASE

    named = {str(way): most for way, most in data.study.report.budgets.items()}
    costs = data.evaluation.costs
    found = []
    for axis in AXES:
        spent = [
            axis.of(costs[point])
            for curve in curves(data)
            if curve.method == BASE and curve.strategy.about.yardstick
            for point in curve.own
        ]
        most = sorted({each for each in spent if each > 0})[-MOST:] if not named else sorted(named.get(axis.name, ()))
        found.append([Budget(axis, each) for each in most])
    return [row for row in found if row]


def affordable(data: ReportData, budget: Budget) -> list[Affordable]:
    """What every curve has within a budget; without curves that have nothing."""
    from stages.report.cost_curves import curves

    found = []
    for curve in curves(data):
        spent = {point: budget.axis.of(data.evaluation.costs[point]) for point in curve.own}
        within = {point: each for point, each in spent.items() if each <= budget.most * (1 + ROUNDING)}
        if within:
            most = max(within.values())
            dearest = tuple(point for point, each in within.items() if each >= most * (1 - ROUNDING))
            found.append(Affordable(curve, tuple(within), dearest))
    return found


def within(data: ReportData, budget: Budget, curves: Sequence[Affordable]) -> list[Point]:
    """All points within a budget, each once: plain sampling of the base first, where it is."""
    base = data.evaluation.base
    alone = [base] if budget.axis.of(data.evaluation.costs[base]) <= budget.most * (1 + ROUNDING) else []
    return list(dict.fromkeys([*alone, *(point for each in curves for point in each.points)]))


def of_network(points: Sequence[Point], method: str) -> list[Point]:
    """Those of a method, or of the base."""
    return [point for point in points if point.method == method]


def place(data: ReportData, point: Point) -> tuple[float, float]:
    """(diversity, reward)."""
    reward, diversity = pair(data)
    return mean(data, point, diversity), mean(data, point, reward)


def mean(data: ReportData, point: Point, metric: str) -> float:
    """The mean of a metric at a point; NaN where it has none."""
    found = data.findings.estimate(point, metric)
    return found.mean if found else math.nan
