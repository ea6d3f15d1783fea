"""Differences between methods are paired: on the training seeds that both have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_fixture import folders, write_study

from stages.report import data as reading
from stages.report import settings
from stages.report.data import ReportData
from stages.report.measurements import Point

RUNS = ("refl-s0", "refl-s1", "imagerefl-s0", "imagerefl-s1", "draft1-s1")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    made: Path = write_study(tmp_path_factory.mktemp("differences"), runs=RUNS)
    where = folders(made)
    return reading.read(settings.read(made), where.measures, where.samples, where.runs)


def scores(found: ReportData, method: str, seeds: list[int]) -> np.ndarray:
    """[prompts]: mean `oracle` over training seeds of the tuned network."""
    kept = found.evaluation.seeds[method]
    every = found.evaluation.scores(Point(method, "tuned", 0.0), "oracle")
    return every[[kept.index(seed) for seed in seeds]].mean(0)


@pytest.mark.parametrize(("method", "seeds"), [("draft1", [1]), ("imagerefl", [0, 1])])
def test_a_method_is_compared_with_the_reference_on_the_seeds_that_both_have(
    method: str, seeds: list[int], found: ReportData
) -> None:
    [one] = [
        each for each in found.findings.select("difference", method)
        if (each.against, each.strategy, each.metric) == ("refl", "tuned", "oracle")
    ]  # fmt: skip
    mine, other = (scores(found, name, seeds) for name in (method, "refl"))
    assert one.mean == pytest.approx((mine - other).mean())
    if method == "draft1":
        assert one.mean != pytest.approx((mine - scores(found, "refl", [0, 1])).mean(), rel=1e-3)


def test_the_base_is_compared_with_all_seeds(found: ReportData) -> None:
    [one] = [
        each for each in found.findings.select("difference", "refl")
        if (each.against, each.strategy, each.metric) == ("base", "tuned", "oracle")
    ]  # fmt: skip
    base = found.evaluation.scores(found.evaluation.base, "oracle").mean(0)
    assert one.mean == pytest.approx((scores(found, "refl", [0, 1]) - base).mean())
