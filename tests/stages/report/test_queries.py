"""Reward against queries, on logs whose curves can be told by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stages.report import probes
from stages.report.figures import queries
from stages.report.look import Look
from stages.report.measurements import Series
from stages.report.settings import ReportStudy


def series(**points: float) -> Series:
    """From `s3=1.5`: step 3, value 1.5."""
    return Series(np.array([int(name[1:]) for name in points]), np.array(list(points.values())))


def study(*runs: str) -> ReportStudy:
    return ReportStudy.model_validate(
        {
            "study": {"name": "x", "reward": "truth", "reference": "a"},
            "report": {"rewards": ["truth"], "diversities": ["d"]},
            "runs": {run: {"method": run[0], "seed": int(run[-1])} for run in runs},
            "sample": {"steps": 1},
        }
    )


ROUNDS = {"queries": series(s0=6, s1=0, s2=4, s3=0), "probe_truth": series(s0=1, s1=2, s2=3, s3=4, s4=5)}
"""Asked about 6 images at step 0 and 4 at step 2; probed before every step and at the end."""


def test_a_probe_counts_for_what_was_asked_before_it_and_the_last_one_does():
    assert probes.spent(ROUNDS, np.arange(5)).tolist() == [0, 6, 6, 10, 10]
    found = probes.over_queries(ROUNDS, "probe_truth")
    assert found is not None
    assert (found.steps.tolist(), found.values.tolist()) == ([0, 6, 10], [1, 3, 5])
    assert probes.over_queries({"probe_truth": ROUNDS["probe_truth"]}, "probe_truth") is None
    assert probes.over_queries(ROUNDS, "probe_other") is None
    assert np.isnan(probes.spent({}, np.arange(2))).all()


def test_a_method_is_the_mean_of_its_seeds_as_far_as_all_went():
    steady = {"queries": series(s0=4, s1=4), "probe_truth": series(s0=3, s1=3, s2=9)}
    log = {"a-s0": ROUNDS, "a-s1": steady, "b-s0": {"probe_truth": series(s0=1)}}
    found = probes.query_curve(study("a-s0", "a-s1", "b-s0"), log, "a", "probe_truth")
    assert found is not None
    assert found.queries.tolist() == [0, 4, 6, 8]
    first, second = [1, 1 + 2 * 4 / 6, 3, 4], [3, 3, 6, 9]
    np.testing.assert_allclose(found.mean, np.mean([first, second], axis=0))
    np.testing.assert_allclose(found.low, [1, 1 + 2 * 4 / 6, 3, 4])
    np.testing.assert_allclose(found.high, second)
    assert probes.query_curve(study("a-s0", "a-s1", "b-s0"), log, "b", "probe_truth") is None


@pytest.mark.parametrize(
    ("log", "counts"), [({"a-s0": ROUNDS}, True), ({"a-s0": {"probe_truth": series(s0=1)}}, False)]
)
def test_the_figure_is_there_whether_queries_are_counted_or_not(log: dict, counts: bool):
    assert probes.counted(log) == counts
    made = study("a-s0")
    drawn = queries.draw(SimpleNamespace(study=made, look=Look.of(made), log=log))  # type: ignore[arg-type]
    texts = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert ("no training log counts queries" in texts) != counts
