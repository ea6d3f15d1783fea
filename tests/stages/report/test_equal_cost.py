"""The frontier at equal cost, on a made-up study whose base was searched with best of N and with DAS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from stages.report.data import ReportData
from stages.report.figures import equal_cost
from stages.report.findings import Finding, Findings
from stages.report.gaps import unbeaten
from stages.report.load import Cost, Measurements, Point
from stages.report.look import Look
from stages.report.settings import ReportStudy

BASE, TUNED = Point("base", "guidance", 1.0), Point("a", "tuned", 0.0)
BEST = {n: Point("base", "best", float(n)) for n in (2, 4, 8)}
DAS = {n: Point("base", "das", float(n)) for n in (1, 2)}
POINTS = {  # cost; reward; diversity
    BASE: (Cost(20, 0.2, 8), 0.1, 2.0), TUNED: (Cost(20, 0.2, 8), 0.5, 1.0),
    BEST[4]: (Cost(80, 0.9, 8, 4), 0.3, 1.7), BEST[2]: (Cost(40, 0.5, 8, 2), 0.2, 1.8),
    BEST[8]: (Cost(160, 1.7, 8, 8), 0.4, 1.6),
    DAS[1]: (Cost(20, 0.8, 8, 20, (), 20), 0.3, 1.9), DAS[2]: (Cost(40, 1.6, 8, 40, (), 40), 0.2, 1.5),
}  # fmt: skip
"""DAS with one particle costs 60 evaluations and is better than best of 2 and of 4; with two it is beaten."""
STRATEGIES = {"tuned": {"kind": "tuned"}, "best": {"kind": "best_of_n"}, "das": {"kind": "das"}}


def made_up(**report: Any) -> ReportData:
    study = ReportStudy.model_validate({
        "study": {"name": "x", "reward": "proxy", "reference": "a"},
        "report": {"rewards": ["proxy", "truth"], "diversities": ["other", "d"], **report},
        "methods": {"a": {"kind": "refl"}}, "runs": {"a-s0": {"method": "a", "seed": 0}},
        "sample": {"steps": 20, "strategies": STRATEGIES},
    })  # fmt: skip
    labels = {point: f"{point.strategy}={point.value:g}" for point in POINTS}
    found = []
    for point, (_, reward, diversity) in POINTS.items():
        own = {"method": point.method, "strategy": point.strategy, "value": point.value, "setting": labels[point]}
        for metric, at in (("proxy", reward), ("truth", -reward), ("d", diversity), ("other", -diversity)):
            found.append(Finding(**own, about="estimate", metric=metric, mean=at, low=at - 1, high=at + 1))
    evaluation = Measurements(
        prompts=("p",), seeds={"base": (0,), "a": (0,)}, base=BASE, labels=labels, steps=20, arrays={}, summaries={},
        costs={point: spent for point, (spent, *_) in POINTS.items()}, identity="x",
    )  # fmt: skip
    return ReportData(study, Look.of(study), evaluation, Findings(tuple(found), "a"), {}, Path("samples"))


MAIN = {"main": {"reward": "proxy", "diversity": "d"}}


def table(data: ReportData, count: str, budget: float) -> dict[str, tuple[bool, bool]]:
    """By setting whether it is the dearest of its curve, and whether on the frontier, of one panel."""
    rows = [row for row in equal_cost.rows(data) if (row["count"], row["budget"]) == (count, budget)]
    return {str(row["setting"]): (bool(row["dearest"]), bool(row["frontier"])) for row in rows}


def test_budgets_are_what_the_yardstick_spends() -> None:
    found = {row[0].axis.name: [each.most for each in row] for row in equal_cost.budgets(made_up(**MAIN))}
    assert found == {"evaluations": [40, 80, 160], "queries": [2, 4, 8], "seconds": [0.5, 0.9, 1.7]}


def test_a_panel_has_what_is_within_its_budget_and_marks_the_dearest_and_the_frontier() -> None:
    """At 80 evaluations DAS with one particle leaves out best of 2 and of 4; at 40 it is too dear."""
    data = made_up(**MAIN)
    assert table(data, "evaluations", 40) == {
        "guidance=1": (False, True), "best=2": (True, True), "tuned=0": (True, True)
    }  # fmt: skip
    assert table(data, "evaluations", 80) == {
        "guidance=1": (False, True), "best=2": (False, False), "best=4": (True, False), "das=1": (True, True),
        "tuned=0": (True, True),
    }  # fmt: skip
    assert table(data, "evaluations", 160)["das=2"] == (True, False)


def test_what_asks_nothing_is_within_every_budget_of_queries_and_seconds_are_their_own() -> None:
    data = made_up(**MAIN)
    assert table(data, "queries", 2) == {
        "guidance=1": (False, True), "best=2": (True, True), "tuned=0": (True, True)
    }  # fmt: skip
    assert "das=1" not in table(data, "queries", 8)
    assert table(data, "seconds", 0.9)["das=1"] == (True, True)


def test_named_budgets_take_the_place_of_the_yardstick_s_and_may_exclude_the_base() -> None:
    data = made_up(**MAIN, budgets={"evaluations": [60, 10, 45.5]})
    assert [[each.most for each in row] for row in equal_cost.budgets(data)] == [[10, 45.5, 60]]
    assert table(data, "evaluations", 10) == {}
    assert table(data, "evaluations", 60)["das=1"] == (True, True)
    assert "das=1" not in table(data, "evaluations", 45.5)


def test_without_a_main_pair_the_first_ones_of_the_report_are_drawn() -> None:
    assert equal_cost.pair(made_up()) == ("proxy", "other")
    assert equal_cost.pair(made_up(**MAIN)) == ("proxy", "d")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(1.0, 1.0)], [(1.0, 1.0)]),
        ([(1.0, 1.0), (1.0, 2.0), (0.5, 2.0)], [(1.0, 2.0)]),
        ([(2.0, 0.0), (0.0, 2.0), (1.0, 1.0), (0.9, 1.0)], [(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)]),
        ([(float("nan"), 9.0), (1.0, 1.0)], [(1.0, 1.0)]),
        ([(2.0, float("nan")), (1.0, 1.0)], [(1.0, 1.0)]),
        ([(float("nan"), 9.0)], []),
        ([(0.3, 1.0), (0.1 + 0.2, 2.0)], [(0.1 + 0.2, 2.0)]),
    ],
)
def test_the_frontier_is_what_no_other_exceeds(places: list, expected: list) -> None:
    assert unbeaten(places) == expected


def shown(axes: Axes, colour: str) -> list[tuple[list[float], list[float]]]:
    lines = [line for line in axes.lines if line.get_color() == colour]
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in lines]


def test_every_panel_shows_its_frontier_as_a_line_and_says_its_budget() -> None:
    data = made_up(**MAIN)
    figure = equal_cost.draw(data)
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        f"at most {n} network evaluations" for n in (40, 80, 160)
    ]  # fmt: skip
    assert shown(figure.axes[1], "0.6") == [([1.0, 1.9, 2.0], [0.5, 0.3, 0.1])]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == len(set(labels)) and "frontier within the budget" in labels
    assert "report.budgets" not in equal_cost.caption(data)
    assert "Budgets are report.budgets" in equal_cost.caption(made_up(**MAIN, budgets={"queries": [2]}))


def test_nothing_is_shown_without_a_budget() -> None:
    data = made_up(**MAIN)
    assert equal_cost.shown(data)
    spent = {point: cost for point, cost in data.evaluation.costs.items() if point.strategy != "best"}
    labels = {point: data.evaluation.labels[point] for point in spent}
    alone = replace(data.evaluation, costs=spent, labels=labels)
    assert not equal_cost.shown(ReportData(data.study, data.look, alone, data.findings, {}, Path("samples")))
