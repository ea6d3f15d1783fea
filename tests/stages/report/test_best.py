"""The best reward at no less diversity, Holm's correction and the smallest detectable effect: against other ways to
compute them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.report import best, claims
from stages.report.claims import Draws, Interval, Outcome, State
from stages.report.findings import Claim, Finding
from stages.report.settings import ReportSettings

LEVEL = 0.95
POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 1)), min_size=1, max_size=6)


def one(mine: list[tuple[float, float]], other: list[tuple[float, float]], base: tuple[float, float]) -> float:
    return float(best.best_gap(np.array([mine]), np.array([other]), np.array([base]))[0])


def brute(mine: list[tuple[float, float]], other: list[tuple[float, float]], base: tuple[float, float]) -> float:
    """The mean over many diversities."""
    low, high = min(d for d, _ in [*other, base]), base[0]
    places = np.linspace(low, high, 20_001)[1:] if high > low else np.array([high])

    def height(points: list[tuple[float, float]]) -> np.ndarray:
        d, r = np.array([*points, base]).T
        return np.where(d[:, None] >= places, r[:, None], -np.inf).max(0)

    return float((height(mine) - height(other)).mean())


@settings(max_examples=60, deadline=None)
@given(POINTS, POINTS, st.tuples(st.floats(0, 1), st.floats(-1, 1)))
def test_it_is_the_mean_over_diversities(mine: list, other: list, base: tuple[float, float]) -> None:
    low = min(d for d, _ in [*other, base])
    if 0 < base[0] - low < 1e-3:
        return  # a range that brute force on a grid of floats cannot resolve
    assert one(mine, other, base) == pytest.approx(brute(mine, other, base), abs=2e-3)


def test_curves_that_share_their_best_points_have_no_gap_at_all_whatever_their_sums_round_to() -> None:
    """An end of an interval at -1e-16 would say that one curve lies below the other."""
    near, base = np.nextafter(0.3, 1.0), (2.0, 0.1)
    for mine, other in ((near, 0.3), (0.3, near)):
        assert one([(1.5, mine)], [(1.0, 0.2), (1.5, other)], base) == 0.0
    assert one([(1.5, 0.3 + 1e-9)], [(1.0, 0.2), (1.5, 0.3)], base) > 0
    assert math.isnan(one([(1.5, math.nan)], [(1.0, 0.2), (1.5, 0.3)], base))


def test_a_staircase() -> None:
    """From 0.2 to 1: the reference has 1 up to 0.2 alone, then 0.5 up to 0.6, then the base's 0."""
    base, reference = (1.0, 0.0), [(0.2, 1.0), (0.6, 0.5)]
    assert one([(0.6, 1.0)], reference, base) == pytest.approx(0.5 * (0.6 - 0.2) / 0.8)
    assert one([(0.2, 1.0)], reference, base) == pytest.approx(-0.5 * 0.4 / 0.8)
    assert one([(0.1, 9.0)], reference, base) == pytest.approx(-0.5 * 0.4 / 0.8)  # less diverse than all that is asked
    assert one([(1.2, 0.3)], [(1.1, 0.1)], base) == pytest.approx(0.3 - 0.1)  # the reference gives up no diversity
    assert one(reference, reference, base) == 0


def scores(d: float, r: float, prompts: int = 24, seeds: int = 2, spread: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(int(1000 * (d + 7 * r)) % 2**31)
    shake = spread * rng.standard_normal((2, seeds, prompts))
    return d + shake[0], r + shake[1]


def test_a_curve_with_more_reward_at_no_less_diversity_is_shown() -> None:
    draws, base = Draws.of(24, 400, seed=3), scores(1.0, 0.0, seeds=1)
    reference = [scores(0.2, 1.0, spread=0.01), scores(0.6, 0.5, spread=0.01)]
    better = [scores(0.2, 1.2, spread=0.01), scores(0.6, 0.7, spread=0.01)]
    found = best.more_at_no_less(draws, LEVEL, better, reference, base)
    assert found.state is State.SHOWN and len(found.per_seed) == 2
    assert found.interval.mean == pytest.approx(0.2 * 0.4 / 0.8, abs=0.02)
    assert found.p == pytest.approx(2 / 401)
    assert best.more_at_no_less(draws, LEVEL, reference, better, base).state is State.OPPOSITE
    same = best.more_at_no_less(draws, LEVEL, reference, reference, base)
    assert same.state is State.NOT_SHOWN and same.p == 1 and same.detectable == 0


def test_it_is_defined_where_the_mean_gap_is_not() -> None:
    from stages.report import gaps

    draws, base = Draws.of(24, 200, seed=3), scores(1.0, 0.0, seeds=1)
    low, high = [scores(0.2, 1.0)], [scores(0.6, 0.5)]
    assert not math.isfinite(gaps.lies_above(draws, LEVEL, low, high).interval.low)
    assert best.more_at_no_less(draws, LEVEL, high, low, base).interval.mean == pytest.approx(0.5 * 0.4 / 0.8)


def test_zeros_count_on_both_sides() -> None:
    assert best.p_value(np.array([0.1, 0.0, 0.0, 0.2, 0.3])) == 1.0
    assert best.p_value(np.array([0.1, 0.1, 0.1, 0.2, 0.3])) == pytest.approx(2 / 5)


def test_holms_correction() -> None:
    assert best.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert best.holm([0.5, 0.9]) == [1.0, 1.0]
    assert best.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_definition(found: list[float]) -> None:
    """The largest of (m - i + 1) p_(i) over all that are not larger."""
    m = len(found)
    for value, adjusted in zip(found, best.holm(found), strict=True):
        ranked = sorted(found)
        upto = [min(1.0, (m - i) * p) for i, p in enumerate(ranked) if p <= value]
        assert adjusted <= max(upto) + 1e-12 and adjusted >= min(1.0, value)


def judgement(p: float, state: State = State.SHOWN) -> Outcome:
    return Outcome(state, Interval(1.0, 0.5, 1.5), (1.0,), p=p)


def test_pairs_that_are_counted_together_need_smaller_p_values() -> None:
    found = best.together([judgement(0.02), judgement(0.03), judgement(0.001), judgement(0.8, State.OPPOSITE)], LEVEL)
    assert [one.state for one in found] == [State.NOT_SHOWN, State.NOT_SHOWN, State.SHOWN, State.NOT_SHOWN]
    assert [one.p_adjusted for one in found] == pytest.approx([0.06, 0.06, 0.004, 0.8])


def test_the_main_pair_decides_the_claim() -> None:
    part = Finding(
        "best", "imagerefl", "combined", "oracle", 0.1, 0.0, 0.2, at_equal="clip_diversity", state="not shown"
    )
    main = replace(part, metric="proxy", state="shown", main=True)
    assert Claim("best", (part, main)).state is State.SHOWN
    assert Claim("best", (part, replace(main, main=False))).state is State.PARTLY
    assert Claim("best", (replace(part, state="shown"), replace(main, state="opposite"))).state is State.OPPOSITE


def test_a_main_pair_that_is_not_shown_is_refused() -> None:
    given = {"rewards": ["proxy"], "diversities": ["clip_diversity"]}
    pair = {"reward": "proxy", "diversity": "clip_diversity"}
    assert ReportSettings.model_validate(given | {"main": pair}).main_pair == ("proxy", "clip_diversity")
    with pytest.raises(ValidationError, match=r"main.reward: 'oracle' is not shown"):
        ReportSettings.model_validate(given | {"main": pair | {"reward": "oracle"}})


def test_the_detectable_effect_has_the_stated_power() -> None:
    """Normal scores of 200 prompts with a shift of the detectable size: about four studies of five see it."""
    prompts, deviation, shown = 200, 1.0, 0
    draws, rng = Draws.of(prompts, 200, seed=1), np.random.default_rng(0)
    expected = (1.959964 + 0.841621) * deviation / math.sqrt(prompts)
    base = np.zeros((1, prompts))
    for _ in range(200):
        noise = rng.normal(0, deviation, (1, prompts))
        found = claims.changes(draws, LEVEL, noise + expected, base, 1)
        assert found.detectable == pytest.approx(expected, rel=0.35)
        shown += found.interval.low > 0
    assert 0.7 < shown / 200 < 0.9


@pytest.mark.parametrize("drawn", [False, True])
def test_training_seeds_count_where_resamples_keep_them(drawn: bool) -> None:
    """Of scores that differ by seed alone, the squared error is s^2 / S whether or not seeds are drawn."""
    values = np.array([0.0, 1.0, 3.0, 4.0])
    scores = np.repeat(values[:, None], 24, axis=1)
    found = claims.changes(Draws.of(24, 4000, 0, drawn), LEVEL, scores, np.zeros((1, 24)), 1)
    assert found.detectable == pytest.approx(2.801585 * math.sqrt(values.var(ddof=1) / 4), rel=0.05)
