"""The frontier at equal cost with many lines: a column per network, and a frontier of its own for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from test_cost_panels import COUNTS, METHODS, SEARCHES, keep, study

from stages.report import cost_panels, equal_panels, kept
from stages.report.data import ReportData
from stages.report.figures import equal_cost

NETWORKS = ("base", *METHODS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return kept.read(study(), keep(tmp_path_factory.mktemp("kept")))


def points(axes: Axes, size: float) -> list[tuple[float, float]]:
    """What a panel shows with markers of that size."""
    found = [line for line in axes.lines if line.get_markersize() == size and line.get_marker() not in ("None", "*")]
    return [
        (float(x), float(y))
        for line in found
        for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
    ]


def test_a_panel_has_one_network_within_one_budget(data: ReportData) -> None:
    """At 40 evaluations every search has one setting beside the network alone, at 80 two of which one is the dearest;
    no search has a network's own sampling.
    """
    figure = equal_cost.draw(data)
    rows = equal_cost.budgets(data)
    count = sum(map(len, rows))
    assert [row[0].axis.name for row in rows] == ["evaluations", "queries", "seconds"]
    assert count == 3 * len(COUNTS) and len(figure.axes) == count * len(NETWORKS)
    panels = np.array(figure.axes).reshape(count, len(NETWORKS))
    for first in (0, len(COUNTS), 2 * len(COUNTS)):
        assert [axes.get_title(loc="left") for axes in panels[first]] == list(NETWORKS)
    assert [axes.get_title(loc="left") for axes in panels[1]] == [""] * len(NETWORKS)
    assert panels[0][0].get_ylabel().startswith("at most 40\nnetwork evaluations")
    for n, method in enumerate(NETWORKS):
        alone = method != "base"
        assert len(points(panels[0][n], 6.5)) == len(SEARCHES) + alone
        assert len(points(panels[1][n], 6.5)) == len(SEARCHES) + alone
        assert len(points(panels[1][n], 3.0)) == 2 * len(SEARCHES) + alone
        if method != "base":  # seeds raise every score of a trained network by a half
            assert min(y for _, y in points(panels[0][n], 6.5)) == pytest.approx(0.2 + 0.5 + 0.05)


def test_a_network_has_the_frontier_of_its_own_points_too(data: ReportData) -> None:
    """Rewards and diversities rise together here, so a frontier is one place: the dearest of the network."""
    figure = equal_cost.draw(data)
    for axes, high in ((figure.axes[0], 0.45), (figure.axes[1], 0.95)):
        (own,) = [line for line in axes.lines if line.get_color() == equal_panels.OWN]
        (every,) = [line for line in axes.lines if line.get_linewidth() == 5]
        assert np.asarray(own.get_ydata()).tolist() == pytest.approx([high])
        assert np.asarray(every.get_ydata()).tolist() == pytest.approx([0.95])
    table = [row for row in equal_cost.rows(data) if (row["count"], row["budget"]) == ("evaluations", 40)]
    best = {str(row["method"]) for row in table if row["frontier_of_method"]}
    assert best == set(NETWORKS) and not any(row["frontier"] for row in table if row["method"] == "base")
    assert all(row["frontier_of_method"] for row in table if row["frontier"])


def test_looks_are_those_of_the_figure_of_costs(data: ReportData) -> None:
    costs = {line.get_label(): (to_hex(line.get_color()), line.get_marker()) for line in cost_panels.handles(data)}
    found = {line.get_label(): (to_hex(line.get_color()), line.get_marker()) for line in equal_panels.handles(data)}
    assert {label: look for label, look in found.items() if label in costs}.items() <= costs.items()
    assert found.keys() - costs.keys() == {"frontier of all networks", "frontier of this network"}
    assert "A column per network" in equal_cost.caption(data) and "The grey line" not in equal_cost.caption(data)


def test_few_lines_stay_together(tmp_path: Path) -> None:
    few = kept.read(study({"best": "best_of_n"}), keep(tmp_path, {"best": "best_of_n"}))
    assert len(equal_cost.draw(few).axes) == 3 * len(COUNTS)
    assert "The grey line" in equal_cost.caption(few)
