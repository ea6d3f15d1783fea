"""Gaps of two frontiers: diversities that tie but for rounding, and points of which no image passes."""

from __future__ import annotations

import numpy as np
import pytest

from stages.audit.statistics import _between
from stages.errors import InputError
from stages.report.claims import Interval
from stages.report.gaps import gap, pareto
from stages.report.measurements import Measurements, Point

OTHER = (np.array([1.0, 3.0]), np.array([0.9, 0.1]))


@pytest.mark.parametrize("up", [True, False])
def test_of_points_that_tie_in_diversity_the_lower_is_beaten_whichever_way_sums_round(
    up: bool,
) -> None:
    tied = np.nextafter(2.0, 3.0 if up else 1.0)
    diversity, reward = np.array([1.0, 2.0, tied, 3.0]), np.array([0.8, 0.6, 0.3, 0.1])
    assert pareto(diversity, reward)[1].tolist() == [0.1, 0.6, 0.8][::-1]
    exact = gap(np.array([1.0, 2.0, 3.0]), np.array([0.8, 0.6, 0.1]), *OTHER)
    found = gap(diversity, reward, *OTHER)
    assert found.gap == pytest.approx(exact.gap, abs=1e-12)
    audited = _between(diversity[None], reward[None], OTHER[0][None], OTHER[1][None])
    assert audited[0, 0] == pytest.approx(exact.gap, abs=1e-12)


def test_a_point_of_which_no_image_passes_has_no_diversity_of_passing_images() -> None:
    here, broken = Point("base", "guidance", 1.0), Point("base", "sgt", 5.5)
    measured = Measurements(
        prompts=("a", "b"),
        seeds={"base": (0,)},
        arrays={(here, "clip_diversity_passed"): np.ones((1, 2)), (here, "proxy"): np.ones((1, 2))},
        summaries={(here, "clip_diversity_passed"): Interval(1, 1, 1), (here, "proxy"): Interval(1, 1, 1)},
        costs={},
        labels={here: "g=1", broken: "c=5.5"},
        base=here,
        identity="",
        steps=2,
    )
    assert np.isnan(measured.scores(broken, "clip_diversity_passed")).all()
    assert measured.scores(broken, "clip_diversity_passed").shape == (1, 2)
    for metric in ("proxy", "unknown_passed"):  # a typing error, or a measure that is not whole, is still said
        with pytest.raises(InputError, match="no rows of"):
            measured.scores(broken, metric)
