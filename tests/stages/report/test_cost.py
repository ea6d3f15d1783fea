"""Reward against cost, on a made-up study whose base was searched with best of N."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes

from stages.report.data import ReportData
from stages.report.figures import cost
from stages.report.findings import Finding, Findings
from stages.report.look import Look
from stages.report.measurements import Cost, Measurements, Point
from stages.report.settings import ReportStudy

COSTS = {
    Point("base", "guidance", 1.0): Cost(20, 0.2, 8),
    Point("base", "best", 4.0): Cost(80, 0.9, 8, 4),
    Point("base", "best", 2.0): Cost(40, 0.5, 8, 2),
    Point("base", "das", 1.0): Cost(20, 0.8, 8, 20, (), 20),
    Point("a", "tuned", 0.0): Cost(20, 0.2, 8),
}
"""Seconds and queries in no proportion to evaluations; the settings of `best` out of order."""


STRATEGIES = {"tuned": {"kind": "tuned"}, "best": {"kind": "best_of_n"}, "das": {"kind": "das"}}


def made_up() -> ReportData:
    """Rewards equal to a hundredth of the evaluations, with an interval of 0.02 around every difference to the base."""
    study = ReportStudy.model_validate({
        "study": {"name": "x", "reward": "proxy", "reference": "a"},
        "report": {"rewards": ["proxy", "truth"], "diversities": ["d"]},
        "methods": {"a": {"kind": "refl"}}, "runs": {"a-s0": {"method": "a", "seed": 0}},
        "sample": {"steps": 20, "strategies": STRATEGIES},
    })  # fmt: skip
    labels = {point: f"{point.strategy}={point.value:g}" for point in COSTS}
    found = []
    for point, spent in COSTS.items():
        own = {"method": point.method, "strategy": point.strategy, "value": point.value, "setting": labels[point]}
        for metric in ("proxy", "truth"):
            at = spent.nfe / 100
            found.append(Finding(**own, about="estimate", metric=metric, mean=at, low=at - 1, high=at + 1))
            found.append(
                Finding(
                    **own, about="difference", metric=metric, against="base", mean=at, low=at - 0.01, high=at + 0.01
                )
            )
    evaluation = Measurements(
        prompts=("p",), seeds={"base": (0,), "a": (0,)}, base=Point("base", "guidance", 1.0), labels=labels, steps=20,
        arrays={}, summaries={}, costs=COSTS, identity="x",
    )  # fmt: skip
    return ReportData(study, Look.of(study), evaluation, Findings(tuple(found), "a"), {}, Path("samples"))


def drawn(axes: Axes, width: float | None = None) -> list[tuple[list[float], list[float]]]:
    """Abscissas and ordinates of the lines of a panel, all or those of one width."""
    lines = [line for line in axes.lines if width in (None, line.get_linewidth())]
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in lines]


def test_an_evaluation_with_gradient_counts_three() -> None:
    assert cost.AXES[0].of(Cost(20, 0.8, 8, 20, (), 20)) == 60
    assert cost.AXES[0].of(Cost(20, 0.8, 8, 20, (), 0)) == 20


def test_every_point_stands_in_the_table_once_with_its_costs_and_rewards() -> None:
    rows = cost.rows(made_up())
    assert len(rows) == len(COSTS)
    by = {(row["strategy"], row["setting"]): row for row in rows}
    das = by["das", "das=1"]
    assert (das["evaluations"], das["queries"], das["seconds"], das["truth"]) == (60, 20, 0.8, 0.2)
    assert by["tuned", "tuned=0"]["queries"] == 0


def test_lines_go_by_cost_the_yardstick_is_broad_and_what_asked_nothing_has_no_queries() -> None:
    figure = cost.draw(made_up())
    evaluations, queries, seconds = figure.axes[:3]
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert drawn(evaluations, width=3.0) == [([40, 80], [0.4, 0.8])]
    assert sorted(len(x) for x, _ in drawn(queries)) == [1, 2]  # das and best; the base and `a` ask nothing
    assert len(drawn(seconds)) == 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == len(set(labels)) == 4


def test_the_caption_names_the_yardstick_of_the_study_and_no_other() -> None:
    assert "The broad line is best of N of the base" in cost.caption(made_up())


@pytest.mark.parametrize("strategies", [{}, {"tuned": {"kind": "tuned"}}])
def test_a_study_of_the_base_alone_has_nothing_to_show(strategies: dict) -> None:
    data = made_up()
    look = SimpleNamespace(methods={}, strategies={})
    assert not cost.shown(SimpleNamespace(look=look, evaluation=data.evaluation))  # type: ignore[arg-type]
