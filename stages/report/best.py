"""The best reward at no less diversity: one curve against another, over the diversities that the reference gives up.

For a set of points, B(d) is the best reward among those whose diversity is at least d: what is to be had by whoever
will not go below d. The base is a point of every set, so B is defined up to the base's diversity. The statistic is

    1 / (high - low) * integral from low to high of B(d) - B'(d),

low the least diversity of the reference's points and high the base's; B(high) - B'(high) where the reference gives up
none. Unlike the mean gap (`stages/report/gaps.py`), it is defined for any two sets of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stages.report.claims import Draws, Interval, Outcome, State, detectable, state_of
from stages.report.gaps import of_seed, stacked

Scores = tuple[np.ndarray, np.ndarray]
"""Diversity and reward of a point, each (training seeds, prompts)."""


ROUNDING = 1e-12
"""Share of the largest reward below which a gap is zero: curves that share their best points differ by rounding."""


def best_gap(mine: np.ndarray, other: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The statistic [n], of points [n, points, 2] of diversity and reward, and of the base [n, 2]."""
    mine, other = (np.concatenate([side, base[:, None]], 1) for side in (mine, other))
    low, high = other[..., 0].min(1), base[:, 0]
    width = high - low
    average = (_integral(mine, low, high) - _integral(other, low, high)) / np.where(width > 0, width, 1)
    found = np.where(width > 0, average, _best(mine, high) - _best(other, high))
    return np.where(np.abs(found) <= ROUNDING * np.abs(mine[..., 1]).max(1), 0.0, found)


def _integral(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Integral [n] of B from low to high: B is constant between neighbouring diversities."""
    order = np.argsort(-points[..., 0], axis=1, kind="stable")
    diversity, reward = (np.take_along_axis(points[..., axis], order, 1) for axis in (0, 1))
    best = np.maximum.accumulate(reward, axis=1)
    ends = np.clip(diversity, low[:, None], np.maximum(low, high)[:, None])
    below = np.concatenate([ends[:, 1:], low[:, None]], 1)
    return (best * (ends - below)).sum(1)


def _best(points: np.ndarray, least: np.ndarray) -> np.ndarray:
    """B [n] at the diversity `least` [n]."""
    return np.where(points[..., 0] >= least[:, None], points[..., 1], -np.inf).max(1)


def more_at_no_less(
    draws: Draws, level: float, mine: Sequence[Scores], other: Sequence[Scores], base: Scores
) -> Outcome:
    """Whether one curve has more reward at no less diversity than another: the interval of the statistic lies above
    zero and every training seed alone agrees.
    """
    sides = [_points(draws, side) for side in (mine, other, [base])]
    statistic = best_gap(sides[0], sides[1], sides[2][:, 0])
    per_seed = _per_seed(mine, other, base)
    interval = Interval.of(statistic, level)
    least = detectable(statistic, per_seed, draws.seed is not None, level)
    return Outcome(state_of(interval, per_seed, 1), interval, per_seed, p=p_value(statistic), detectable=least)


def p_value(statistic: np.ndarray) -> float:
    """Two-sided bootstrap p-value of a statistic (1 + resamples,): twice the smaller share of the resamples at or
    beyond zero, one added to both counts (Davison and Hinkley 1997, section 4.2). Zeros count on both sides: curves
    that share their best points have no gap at all in many resamples.
    """
    resampled = statistic[1:][np.isfinite(statistic[1:])]
    least = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return float(min(1.0, 2 * (least + 1) / (len(resampled) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): in ascending order the i-th of m counts m - i + 1 times, and none less than those
    before it.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [0.0] * len(order), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def together(judged: Sequence[Outcome], level: float) -> list[Outcome]:
    """Judgements that are counted together: what is no longer significant after Holm's correction is not shown."""
    found = []
    for one, p in zip(judged, holm([one.p for one in judged]), strict=True):
        state = one.state if p <= 1 - level else State.NOT_SHOWN
        found.append(replace(one, state=state, p_adjusted=p))
    return found


def _points(draws: Draws, points: Sequence[Scores]) -> np.ndarray:
    return np.stack(stacked(draws, points), axis=-1)


def _per_seed(mine: Sequence[Scores], other: Sequence[Scores], base: Scores) -> tuple[float, ...]:
    """The statistic of every seed alone: seed i against seed i, or against the mean where the numbers differ."""
    count = max(len(np.atleast_2d(diversity)) for diversity, _ in mine)
    same = count == max(len(np.atleast_2d(diversity)) for diversity, _ in other)
    found = []
    for seed in range(count):
        sides = [
            np.stack(of_seed(points, chosen), -1)[None]
            for points, chosen in ((mine, seed), (other, seed if same else None), ([base], None))
        ]
        found.append(float(best_gap(sides[0], sides[1], sides[2][:, 0])[0]))
    return tuple(found)
