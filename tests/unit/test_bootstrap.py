from __future__ import annotations

import numpy as np
import pytest

from stages.errors import InputError
from stages.measure.bootstrap import Interval, interval, jackknife, paired_interval, ratio_interval


def ends(found: Interval) -> tuple[float, float]:
    assert found.low is not None and found.high is not None
    return found.low, found.high


def test_means_inside_a_prompt_come_first():
    found = interval({"a": [1.0, 3.0], "b": [10.0]}, n=200)
    assert found.mean == 6.0
    assert found.n_prompts == 2


def test_interval_has_the_width_of_the_normal_theory():
    rng = np.random.default_rng(0)
    values = {f"p{i}": float(v) for i, v in enumerate(rng.normal(2.0, 1.0, 400))}
    found = interval(values, n=4000, level=0.95, seed=3)
    spread = np.std(list(values.values()))
    low, high = ends(found)
    assert high - low == pytest.approx(2 * 1.96 * spread / np.sqrt(400), rel=0.05)
    assert low < found.mean < high


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        drawn = {str(i): float(v) for i, v in enumerate(rng.normal(0.0, 1.0, 60))}
        low, high = ends(interval(drawn, n=400, level=0.9, seed=trial))
        hits += low <= 0.0 <= high
    assert 0.82 <= hits / 200 <= 0.96


def test_interval_depends_on_seed_but_not_on_order():
    values = {str(i): float(i * i % 7) for i in range(12)}
    turned = dict(reversed(values.items()))
    assert interval(values, n=300, seed=5) == interval(turned, n=300, seed=5)
    assert interval(values, n=300, seed=5) != interval(values, n=300, seed=6)


def test_paired_differences_are_taken_inside_a_prompt():
    rng = np.random.default_rng(2)
    base = {str(i): float(v) for i, v in enumerate(rng.normal(0, 100, 50))}
    shifted = {key: value + 0.5 for key, value in base.items()}
    found = paired_interval(shifted, base, n=500)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert paired_interval({"0": 1.0, "9": 5.0}, {"0": [0.0, 1.0], "7": 9.0}).mean == 0.5


def test_one_prompt_has_no_interval():
    found = interval({"a": [1.0, 2.0]})
    assert (found.mean, found.low, found.high) == (1.5, None, None)


def test_refusals():
    with pytest.raises(InputError, match="at least one prompt"):
        interval({})
    with pytest.raises(InputError, match="share none"):
        paired_interval({"a": 1.0}, {"b": 1.0})
    with pytest.raises(InputError, match="prompt 'a'"):
        interval({"a": float("nan"), "b": 1.0})


def test_ratio_is_the_weighted_share():
    found = ratio_interval(np.array([1.0, 0.0, 0.5]), np.array([1.0, 1.0, 0.5]), ["a", "a", "b"], n=100)
    assert found.mean == pytest.approx(1.5 / 2.5)
    low, high = ends(found)
    assert 0.5 <= low <= high <= 1.0


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(4).normal(size=30)
    ids = [f"p{i:02d}" for i in range(30)]
    found = jackknife(lambda rows: float(values[rows].mean()), ids, level=0.95, groups=30)
    error = values.std(ddof=1) / np.sqrt(30)
    assert found.mean == pytest.approx(values.mean())
    low, high = ends(found)
    assert (high - low) / 2 == pytest.approx(2.0452 * error, rel=1e-3)


def test_ends_are_cut_to_what_is_possible():
    assert Interval(0.9, 0.7, 1.2, 4).within(0.0, 1.0) == Interval(0.9, 0.7, 1.0, 4)
    assert Interval(0.9, None, None, 1).within(0.0, 1.0) == Interval(0.9, None, None, 1)


def test_jackknife_leaves_out_whole_prompts():
    ids = ["a", "a", "b", "b", "c", "c"]
    seen = []
    jackknife(lambda rows: float(seen.append(sorted({ids[r] for r in rows})) or len(rows)), ids)
    assert sorted(seen[1:]) == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert jackknife(lambda rows: 1.0, ["a", "a", "b"]).low is None
