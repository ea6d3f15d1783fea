"""One frontier above another at equal diversity: Pareto points, the area between two frontiers, and its verdict."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stages.report.claims import Draws, Interval, Outcome, State, detectable, means, seed_mean, state_of

ABOVE = 0.9
"""A frontier lies above another when it does so over at least this share of the diversities that both reach."""

TIES = 12
"""Decimal places to which two diversities must agree to be equal."""

MAX_UNDEFINED = 0.05
"""Share of resamples in which two frontiers may fail to overlap before nothing is said about them."""


@dataclass(frozen=True)
class Gap:
    """How far one frontier lies above another: `gap` is the mean difference of reward over the common diversities,
    `area` its integral, `above` the share of those diversities at which the difference is positive."""

    gap: float
    area: float
    low: float
    high: float
    above: float


UNDEFINED = Gap(*[float("nan")] * 5)


def pareto(diversity: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that are not beaten, by ascending diversity (so descending reward): no other point has more of one and
    no less of the other.

    Diversities that are equal but for rounding are equal: an entropy of a few images has few values, so ties happen.
    """
    [(kept_diversity, kept_reward)] = _fronts(diversity[None], reward[None])
    return np.array(kept_diversity), np.array(kept_reward)


def unbeaten(places: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The places (diversity, reward) that `pareto` keeps, by ascending diversity; one with a NaN is none of them."""
    known = [place for place in places if not any(map(math.isnan, place))]
    if not known:
        return []
    diversity, reward = pareto(*np.array(known).T)
    return list(zip(diversity.tolist(), reward.tolist(), strict=True))


Front = tuple[list[float], list[float]]
"""Diversity and reward of Pareto points, by ascending diversity."""


def _fronts(diversity: np.ndarray, reward: np.ndarray) -> list[Front]:
    """The Pareto points of every row of (resamples, points)."""
    order = np.lexsort((-reward, -diversity.round(TIES)), axis=-1)
    diversity, reward = (np.take_along_axis(each, order, axis=-1) for each in (diversity, reward))
    best = np.fmax.accumulate(reward, axis=-1)[:, :-1]
    kept = np.column_stack([reward[:, 0] > -np.inf, reward[:, 1:] > np.fmax(best, -np.inf)])
    return [(d[row][::-1].tolist(), r[row][::-1].tolist()) for d, r, row in zip(diversity, reward, kept, strict=True)]


def gap(diversity: np.ndarray, reward: np.ndarray, against_diversity: np.ndarray, against_reward: np.ndarray) -> Gap:
    """How far the frontier of one set of points lies above that of another, at equal diversity.

    The frontier R(d) of a set is the straight-line interpolation of reward over diversity through its Pareto points.
    Both are defined between `low`, the larger of their smallest diversities, and `high`, the smaller of their largest:

        area = integral from low to high of R(d) - R'(d),    gap = area / (high - low),

    exact, since the difference is linear between the knots of both. Undefined (NaN) where low >= high.
    """
    [mine], [other] = _fronts(diversity[None], reward[None]), _fronts(against_diversity[None], against_reward[None])
    return _gap(mine, other)


def _gap(mine: Front, other: Front) -> Gap:
    """`gap` of two frontiers. They have a few points each, and resamples are many: plain numbers are quicker here than
    arrays.
    """
    low, high = max(mine[0][0], other[0][0]), min(mine[0][-1], other[0][-1])
    if not high > low:
        return UNDEFINED
    knots = sorted({low, high, *(knot for knot in (*mine[0], *other[0]) if low < knot < high)})
    delta = [_at(mine, knot) - _at(other, knot) for knot in knots]
    widths = [right - left for left, right in pairwise(knots)]
    parts = [width * (right + left) / 2 for width, (left, right) in zip(widths, pairwise(delta), strict=True)]
    area, above = float(np.sum(parts)), _positive_length(widths, delta) / (high - low)
    return Gap(area / (high - low), area, low, high, above)


def _at(front: Front, diversity: float) -> float:
    """Reward of a frontier at a diversity that it reaches."""
    d, r = front
    left = bisect_right(d, diversity) - 1
    if d[left] == diversity or left == len(d) - 1:
        return r[left]
    return (r[left + 1] - r[left]) / (d[left + 1] - d[left]) * (diversity - d[left]) + r[left]


def gaps(
    draws: Draws, mine: Sequence[tuple[np.ndarray, np.ndarray]], other: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[Gap]:
    """The gap of the data as they are, then that of every resample.

    `mine` and `other` list (diversity, reward) scores of shape (seeds, prompts), one pair per point of the frontier.
    """
    sides = (_fronts(*stacked(draws, points)) for points in (mine, other))
    return [_gap(*drawn) for drawn in zip(*sides, strict=True)]


def lies_above(
    draws: Draws,
    level: float,
    mine: Sequence[tuple[np.ndarray, np.ndarray]],
    other: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Outcome:
    """Whether one frontier lies above another at equal diversity; points as in `gaps`.

    Shown when the mean gap is above zero with its interval and in every seed alone, and the frontier is the higher one
    over at least ABOVE of the common diversities.
    """
    found = gaps(draws, mine, other)
    plain, statistic = found[0], np.array([one.gap for one in found])
    undefined = float(np.isnan(statistic).mean())
    if not np.isfinite(plain.gap) or undefined > MAX_UNDEFINED:
        nothing = Interval(plain.gap, float("nan"), float("nan"))
        note = f"hardly any common diversities ({undefined:.0%} of the resamples have none)"
        return Outcome(State.NOT_SHOWN, nothing, (), "no common diversities" if undefined == 1 else note)
    interval = Interval.of(statistic, level)
    per_seed = _seed_gaps(mine, other)
    state = state_of(interval, per_seed, 1)
    if state is State.SHOWN and plain.above < ABOVE:
        state = State.NOT_SHOWN
    note = f"above over {plain.above:.0%} of the common diversities {plain.low:.3g} to {plain.high:.3g}"
    area = Interval.of(np.array([one.area for one in found]), level)
    least = detectable(statistic, per_seed, draws.seed is not None, level)
    return Outcome(state, interval, per_seed, note, area, detectable=least)


def _seed_gaps(
    mine: Sequence[tuple[np.ndarray, np.ndarray]], other: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, ...]:
    """The plain gap of every seed alone: seed i against seed i, or against the other's mean where the numbers differ.

    A point that has one seed only (the base, the common end of both frontiers) serves for every seed.
    """
    seeds = max(len(np.atleast_2d(diversity)) for diversity, _ in mine)
    same = seeds == max(len(np.atleast_2d(diversity)) for diversity, _ in other)
    found = []
    for seed in range(seeds):
        a, b = of_seed(mine, seed)
        c, d = of_seed(other, seed if same else None)
        found.append(float(gap(a, b, c, d).gap))
    return tuple(found)


def of_seed(points: Sequence[tuple[np.ndarray, np.ndarray]], seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Diversity and reward [points] of one training seed, of all where `seed` is None; a point with one seed serves for
    every seed.
    """

    def one(scores: np.ndarray) -> float:
        scores = np.atleast_2d(scores)
        row = scores if seed is None or len(scores) == 1 else scores[seed : seed + 1]
        return float(np.nanmean(seed_mean(row)))

    return np.array([one(d) for d, _ in points]), np.array([one(r) for _, r in points])


def stacked(draws: Draws, points: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Diversity and reward of every point under all draws, each of shape (1 + resamples, points)."""
    diversity = np.stack([means(draws, d) for d, _ in points], axis=1)
    reward = np.stack([means(draws, r) for _, r in points], axis=1)
    return diversity, reward


def _positive_length(widths: Sequence[float], delta: Sequence[float]) -> float:
    """Length over which the piecewise-linear function with values `delta` at the ends of pieces of these `widths` is
    above zero.
    """
    length = 0.0
    for width, (left, right) in zip(widths, pairwise(delta), strict=True):
        if left >= 0 and right >= 0:
            length += width * (left > 0 or right > 0)
        elif left > 0 or right > 0:
            length += width * max(left, right) / (abs(left) + abs(right))
    return length
