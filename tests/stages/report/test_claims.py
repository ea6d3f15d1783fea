"""The statistics of the report, on constructed data whose verdict is known, and against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest

from stages.measure import bootstrap
from stages.report import claims, gaps
from stages.report.claims import Draws, Interval, State
from stages.report.findings import Claim, Finding

PROMPTS = 24
DRAWS = Draws.of(PROMPTS, 400, seed=3)
LEVEL = 0.95


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def frontier(offset: float, seeds: int = 2, spread: float = 0.002) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points of a frontier reward = 1 - diversity + offset, but for its last point, where all frontiers meet."""
    points = []
    for index, d in enumerate((0.2, 0.4, 0.6, 0.8, 1.0)):
        lift = offset if d < 1 else 0.0
        shake = spread * noise(2, seeds, PROMPTS, seed=index)
        points.append((d + shake[0], 1 - d + lift + shake[1]))
    return points


def test_an_interval_is_the_one_that_measure_computes() -> None:
    scores, other = noise(1, PROMPTS), noise(1, PROMPTS, seed=1)
    named = {f"p{index:02d}": float(value) for index, value in enumerate(scores[0])}
    against = {f"p{index:02d}": float(value) for index, value in enumerate(other[0])}
    mine = Interval.of(claims.means(DRAWS, scores), LEVEL)
    theirs = bootstrap.interval(named, n=400, level=LEVEL, seed=3)
    assert (mine.mean, mine.low, mine.high) == pytest.approx((theirs.mean, theirs.low, theirs.high))
    mine = Interval.of(claims.difference(DRAWS, scores, other), LEVEL)
    theirs = bootstrap.paired_interval(named, against, n=400, level=LEVEL, seed=3)
    assert (mine.mean, mine.low, mine.high) == pytest.approx((theirs.mean, theirs.low, theirs.high))


def test_a_prompt_without_a_score_is_left_out() -> None:
    scores = noise(2, PROMPTS)
    scores[:, 5] = np.nan
    scores[0, 7] = np.nan
    kept = np.delete(np.where(np.isnan(scores[0]), scores[1], scores.mean(axis=0)), 5)
    statistic = claims.means(DRAWS, scores)
    assert statistic[0] == pytest.approx(kept.mean())
    row = np.delete(DRAWS.prompts[1], 5)
    assert statistic[1] == pytest.approx((row * kept).sum() / row.sum())


@pytest.mark.parametrize(("shift", "sign", "state"), [
    (0.5, 1, State.SHOWN), (0.5, -1, State.OPPOSITE), (-0.5, -1, State.SHOWN), (0.0, 1, State.NOT_SHOWN),
])  # fmt: skip
def test_a_change_counts_beyond_its_interval(shift: float, sign: int, state: State) -> None:
    prompt = noise(PROMPTS, seed=9)  # far larger than the shift: only pairing can see it
    base, tuned = 5 * prompt + 0.1 * noise(1, PROMPTS), 5 * prompt + shift + 0.1 * noise(2, PROMPTS, seed=4)
    tuned -= (tuned.mean() - base.mean() - shift) if shift == 0 else 0
    assert claims.changes(DRAWS, LEVEL, tuned, base, sign).state is state


def test_seeds_that_disagree_show_nothing() -> None:
    base = np.zeros((1, PROMPTS))
    tuned = np.stack([np.full(PROMPTS, 1.0), np.full(PROMPTS, -0.1)])
    finding = claims.changes(DRAWS, LEVEL, tuned, base, 1)
    assert finding.interval.low > 0
    assert finding.per_seed == pytest.approx((1.0, -0.1))
    assert finding.state is State.NOT_SHOWN


def path(*means: float) -> list[np.ndarray]:
    return [mean + 0.01 * noise(2, PROMPTS, seed=index) for index, mean in enumerate(means)]


def test_a_steady_trade_is_shown_in_its_direction_only() -> None:
    assert claims.monotone(DRAWS, LEVEL, path(3, 2, 1, 0), -1).state is State.SHOWN
    assert claims.monotone(DRAWS, LEVEL, path(3, 2, 1, 0), 1).state is State.OPPOSITE
    assert claims.monotone(DRAWS, LEVEL, path(0, 1, 2, 3), 1).note == "3 of 3 steps forward, 3 clearly"


def test_a_clear_step_back_or_no_change_is_no_trade() -> None:
    dipped = claims.monotone(DRAWS, LEVEL, path(0, 2, 1, 3), 1)
    assert dipped.state is State.NOT_SHOWN
    assert "1 clearly back" in dipped.note
    assert "33% of the change lost" in dipped.note
    assert claims.monotone(DRAWS, LEVEL, path(1, 1, 1, 1), 1).state is not State.SHOWN


def test_steps_back_are_forgiven_up_to_a_tenth_of_the_change() -> None:
    loose = 1.0 * noise(3, 1, PROMPTS, seed=2)  # single steps are unclear, so that only their sum can refuse
    loose -= loose.mean(axis=2, keepdims=True)
    ends = np.zeros((1, PROMPTS)), np.ones((1, PROMPTS))
    for back, state in ((0.08, State.SHOWN), (0.2, State.NOT_SHOWN)):
        points = [ends[0], 0.5 + loose[0], 0.5 - back + loose[1], ends[1]]
        assert claims.monotone(DRAWS, LEVEL, points, 1).state is state


def test_pareto_points_are_those_that_nothing_beats() -> None:
    diversity, reward = np.random.default_rng(5).uniform(size=(2, 40))
    kept = [
        index
        for index in range(40)
        if not any(diversity[j] >= diversity[index] and reward[j] >= reward[index] and j != index for j in range(40))
    ]
    found_d, found_r = gaps.pareto(diversity, reward)
    assert sorted(diversity[kept]) == pytest.approx(list(found_d))
    assert all(np.diff(found_d) > 0)
    assert all(np.diff(found_r) < 0)


def test_the_gap_of_known_frontiers() -> None:
    d = np.array([0.0, 1.0])
    shifted = gaps.gap(d, np.array([1.5, 0.5]), d, np.array([1.0, 0.0]))
    assert (shifted.gap, shifted.area, shifted.above) == pytest.approx((0.5, 0.5, 1.0))
    # A bent frontier over a straight one, both from (0, 1) to (2, 0): a triangle of area 1/2.
    bent = gaps.gap(np.array([0, 1, 2]), np.array([1.0, 1.0 - 1e-12, 0.0]), np.array([0, 2]), np.array([1.0, 0.0]))
    assert (bent.area, bent.gap) == pytest.approx((0.5, 0.25))
    # Crossing at d = 1 of [0, 4]: above over one quarter.
    crossing = gaps.gap(np.array([0, 4]), np.array([4.0, 0.0]), np.array([0, 4]), np.array([3.0, 3.0 - 1e-9]))
    assert crossing.above == pytest.approx(0.25, abs=1e-6)


def test_the_gap_against_fine_sums_on_the_common_range() -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        a, b = rng.uniform(size=(2, 9)), rng.uniform(size=(2, 7))
        (ad, ar), (bd, br) = gaps.pareto(*a), gaps.pareto(*b)
        low, high = max(ad[0], bd[0]), min(ad[-1], bd[-1])
        found = gaps.gap(*a, *b)
        if low >= high:
            assert np.isnan(found.gap)
            continue
        grid = low + (high - low) * (np.arange(200_000) + 0.5) / 200_000
        delta = np.interp(grid, ad, ar) - np.interp(grid, bd, br)
        assert found.gap == pytest.approx(delta.mean(), abs=1e-6)
        assert found.above == pytest.approx((delta > 0).mean(), abs=1e-4)
        assert found.area == pytest.approx(found.gap * (high - low))


@pytest.mark.parametrize(("offset", "state"), [(0.1, State.SHOWN), (-0.1, State.OPPOSITE)])
def test_a_frontier_above_another(offset: float, state: State) -> None:
    finding = gaps.lies_above(DRAWS, LEVEL, frontier(offset), frontier(0.0))
    assert finding.state is state
    # Lifted by the offset on [0.2, 0.8], then running down to the common end; the ends are those of both sets.
    assert finding.interval.mean == pytest.approx(offset * 0.7 / 0.8, abs=0.15 * abs(offset))
    assert len(finding.per_seed) == 2


def test_equal_frontiers_show_nothing() -> None:
    same = frontier(0.0, seeds=1, spread=0.02)
    shaken = [(d, r + 0.02 * noise(1, PROMPTS, seed=50 + i)) for i, (d, r) in enumerate(same)]
    centred = [(d, r - r.mean() + same[i][1].mean()) for i, (d, r) in enumerate(shaken)]
    assert gaps.lies_above(DRAWS, LEVEL, centred, same).state is State.NOT_SHOWN
    assert gaps.lies_above(DRAWS, LEVEL, same, same).interval.mean == 0


def test_a_frontier_that_crosses_is_not_above() -> None:
    high = [(np.full((1, PROMPTS), d), np.full((1, PROMPTS), r)) for d, r in ((0.0, 9.0), (0.5, 0.9), (1.0, 0.0))]
    low = [(np.full((1, PROMPTS), d), np.full((1, PROMPTS), r)) for d, r in ((0.0, 1.2), (0.5, 1.1), (1.0, 0.5))]
    finding = gaps.lies_above(DRAWS, LEVEL, high, low)
    assert finding.interval.low > 0
    assert finding.state is State.NOT_SHOWN


def test_frontiers_without_common_diversities_are_not_compared() -> None:
    left = [(np.full((1, PROMPTS), d), np.full((1, PROMPTS), 1 - d)) for d in (0.1, 0.2)]
    right = [(np.full((1, PROMPTS), d), np.full((1, PROMPTS), 1 - d)) for d in (0.5, 0.6)]
    finding = gaps.lies_above(DRAWS, LEVEL, left, right)
    assert finding.state is State.NOT_SHOWN
    assert finding.note == "no common diversities"


def test_a_claim_is_as_good_as_its_parts() -> None:
    def claim(*states: State) -> Claim:
        return Claim("c", tuple(Finding("c", "m", "s", "a", 0.0, 0.0, 0.0, state=state.value) for state in states))

    assert claim(State.SHOWN, State.SHOWN).state is State.SHOWN
    assert claim(State.SHOWN, State.OPPOSITE).state is State.PARTLY
    assert claim(State.NOT_SHOWN, State.OPPOSITE).state is State.NOT_SHOWN
    assert claim(State.OPPOSITE).state is State.OPPOSITE


def test_drawing_training_seeds_widens_an_interval_by_what_the_seeds_differ() -> None:
    effects = np.array([1.0, 2.0, 3.0])
    scores = np.repeat(effects[:, None], PROMPTS, axis=1)
    fixed = claims.means(DRAWS, scores)
    assert np.allclose(fixed, 2.0)
    both = claims.means(Draws.of(PROMPTS, 4000, seed=3, training_seeds=True), scores)
    assert both[0] == pytest.approx(2.0)
    # the mean of three draws from {1, 2, 3}: variance (2/3) / 3, and 1 of 27 draws each at the ends
    assert both[1:].var() == pytest.approx(2 / 9, rel=0.1)
    assert (both[1:] == 1.0).mean() == pytest.approx(1 / 27, abs=0.015)


def test_training_seeds_are_drawn_in_pairs() -> None:
    draws = Draws.of(PROMPTS, 400, seed=3, training_seeds=True)
    effect = np.repeat(np.array([[0.0], [5.0], [9.0]]), PROMPTS, axis=1)
    assert np.allclose(claims.difference(draws, effect + 1, effect), 1.0)
    single = effect[:1]  # the base has one seed, which every draw keeps
    assert np.allclose(claims.means(draws, single), 0.0)


def test_a_missing_score_of_a_drawn_seed_is_left_out() -> None:
    draws = Draws(np.full((3, 2), 0.5), seed=1)
    scores = np.array([[1.0, np.nan], [3.0, 4.0]])
    weights = draws.seeds(2)
    for drawn, found in zip(weights, claims.by_prompt(draws, scores), strict=True):
        assert found[0] == pytest.approx(drawn @ scores[:, 0])
        assert found[1] == pytest.approx(4.0) if drawn[1] else np.isnan(found[1])


def test_the_area_is_the_gap_times_the_common_range() -> None:
    finding = gaps.lies_above(DRAWS, LEVEL, frontier(0.1, spread=0.0), frontier(0.0, spread=0.0))
    assert finding.area is not None
    assert finding.area.mean == pytest.approx(finding.interval.mean * 0.8)
