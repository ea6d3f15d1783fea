"""The statistics behind the verdicts: paired bootstrap over prompts, monotone trades, frontiers at equal diversity.

Everything here is a pure function of arrays. Scores come as (training seeds, prompts). A statistic is computed once for
the prompts as they are and once a resample; both stand in one array of shape (1 + resamples,), the plain value first.
Every resample draws the same prompts for all methods, so that every comparison is paired. The intervals say how much an
answer depends on which prompts were asked; they do not say how much it depends on the training seed, so a claim counts
as shown only when, besides, every training seed alone points the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from stages.measure import bootstrap

BACKTRACK = 0.1
"""A trade may go back by this share of its whole change and still count as monotone."""

ABOVE = 0.9
"""A frontier lies above another when it does so over at least this share of the diversities that both reach."""

MAX_UNDEFINED = 0.05
"""Share of resamples in which two frontiers may fail to overlap before nothing is said about them."""


class State(StrEnum):
    """What the data say about a claim."""

    SHOWN = "shown"
    PARTLY = "partly shown"
    NOT_SHOWN = "not shown"
    OPPOSITE = "opposite"


@dataclass(frozen=True)
class Interval:
    """A value and the percentile interval of its resamples."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, statistic: np.ndarray, level: float) -> Interval:
        """From a statistic of shape (1 + resamples,); undefined resamples (NaN) are left out."""
        tail = (1 - level) / 2
        resampled = statistic[1:][np.isfinite(statistic[1:])]
        if not resampled.size:
            return cls(float(statistic[0]), float("nan"), float("nan"))
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return cls(float(statistic[0]), float(low), float(high))

    def sign(self) -> int:
        """1 or -1 when the whole interval lies on that side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Finding:
    """The answer for one reward, one diversity, or one pair of them."""

    axes: tuple[str, ...]
    state: State
    interval: Interval
    per_seed: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence, and what the data say about each of its parts."""

    key: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """Shown when every part is; opposite when every part is; partly shown when some part is."""
        states = {finding.state for finding in self.findings}
        if len(states) == 1:
            return states.pop()
        return State.PARTLY if State.SHOWN in states else State.NOT_SHOWN

    @property
    def shown(self) -> int:
        """Number of parts that are shown."""
        return sum(finding.state is State.SHOWN for finding in self.findings)


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


def prompt_weights(prompts: int, resamples: int, seed: int) -> np.ndarray:
    """Weights of shape (1 + resamples, prompts): rows sum to 1; row 0 is uniform, the others draw with replacement.

    The draws are those of `stages.measure.bootstrap`, so an interval here is the interval there.
    """
    return np.vstack([np.ones((1, prompts)), bootstrap.resamples(prompts, resamples, seed)]) / prompts


def means(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The statistic "mean over seeds and prompts", shape (1 + resamples,), of scores (seeds, prompts) or (prompts,).

    A prompt without a score (NaN) in every seed is left out; NaN where no prompt is left.
    """
    mean = seed_mean(scores)
    weighed = weights * np.isfinite(mean)
    total = weighed.sum(axis=1)
    return np.divide(weighed @ np.nan_to_num(mean), total, out=np.full(len(weights), np.nan), where=total > 0)


def seed_mean(scores: np.ndarray) -> np.ndarray:
    """Mean over seeds a prompt, shape (prompts,); NaN where no seed has a score."""
    scores = np.atleast_2d(scores)
    valid = np.isfinite(scores)
    count = valid.sum(axis=0)
    total = np.where(valid, scores, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(scores.shape[1], np.nan), where=count > 0)


def difference(weights: np.ndarray, scores: np.ndarray, against: np.ndarray) -> np.ndarray:
    """The statistic "mean paired difference", over the prompts that both sides have."""
    return means(weights, seed_mean(scores) - seed_mean(against))


def paired_seeds(scores: np.ndarray, against: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (prompts,) scores, seed i with seed i; where the numbers of seeds differ, each seed of the side that has
    more with the mean over seeds of the other (the base has one)."""
    scores, against = np.atleast_2d(scores), np.atleast_2d(against)
    if len(scores) == len(against):
        return list(zip(scores, against, strict=True))
    if len(scores) > len(against):
        return [(row, seed_mean(against)) for row in scores]
    return [(seed_mean(scores), row) for row in against]


def changes(
    weights: np.ndarray, level: float, axis: str, scores: np.ndarray, against: np.ndarray, sign: int
) -> Finding:
    """Whether a metric moved in the direction `sign` (1 up, -1 down): interval beyond zero, every seed alone agrees."""
    interval = Interval.of(difference(weights, scores, against), level)
    per_seed = tuple(float(np.nanmean(mine - other)) for mine, other in paired_seeds(scores, against))
    return Finding((axis,), _judge(interval, per_seed, sign), interval, per_seed)


def monotone(weights: np.ndarray, level: float, axis: str, path: Sequence[np.ndarray], sign: int) -> Finding:
    """Whether a metric moves one way along `path`, the scores (seeds, prompts) at k = 0, ..., T in order.

    Shown when (1) the whole change from the first to the last has direction `sign`, beyond zero and in every seed, (2)
    no step between neighbours goes the other way with an interval beyond zero, and (3) the steps that go the other way
    make up at most BACKTRACK of the whole change.
    """
    whole = changes(weights, level, axis, path[-1], path[0], sign)
    statistics = [difference(weights, after, before) for before, after in pairwise(path)]
    steps = [Interval.of(statistic, level) for statistic in statistics]
    forward = sum(step.mean * sign > 0 for step in steps)
    clear = sum(step.sign() == sign for step in steps)
    wrong = sum(step.sign() == -sign for step in steps)
    back = sum(max(0.0, -sign * step.mean) for step in steps)
    share = back / abs(whole.interval.mean) if whole.interval.mean else float("inf")
    note = f"{forward} of {len(steps)} steps forward, {clear} clearly"
    if wrong:
        note += f"; {wrong} clearly back"
    if back and whole.state is not State.NOT_SHOWN:
        note += f"; {share:.0%} of the change lost on the way"
    state = whole.state
    if state is State.SHOWN and (wrong or share > BACKTRACK):
        state = State.NOT_SHOWN
    return Finding((axis,), state, whole.interval, whole.per_seed, note)


def pareto(diversity: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that no other point beats in both, by ascending diversity (so descending reward)."""
    order = np.lexsort((-reward, -diversity))
    kept, best = [], -np.inf
    for index in order:
        if reward[index] > best:
            kept.append(index)
            best = reward[index]
    kept.reverse()
    return diversity[kept], reward[kept]


def gap(diversity: np.ndarray, reward: np.ndarray, against_diversity: np.ndarray, against_reward: np.ndarray) -> Gap:
    """How far the frontier of one set of points lies above that of another, at equal diversity.

    The frontier R(d) of a set is the straight-line interpolation of reward over diversity through its Pareto points.
    Both are defined between `low`, the larger of their smallest diversities, and `high`, the smaller of their largest:

        area = integral from low to high of R(d) - R'(d),    gap = area / (high - low),

    exact, since the difference is linear between the knots of both. Undefined (NaN) where low >= high.
    """
    mine_d, mine_r = pareto(diversity, reward)
    other_d, other_r = pareto(against_diversity, against_reward)
    low, high = max(mine_d[0], other_d[0]), min(mine_d[-1], other_d[-1])
    if not high > low:
        return UNDEFINED
    inner = np.concatenate([mine_d, other_d])
    knots = np.unique(np.concatenate([[low, high], inner[(inner > low) & (inner < high)]]))
    delta = np.interp(knots, mine_d, mine_r) - np.interp(knots, other_d, other_r)
    area = float(np.trapezoid(delta, knots))
    above = _positive_length(knots, delta) / (high - low)
    return Gap(float(area / (high - low)), area, float(low), float(high), float(above))


def gaps(
    weights: np.ndarray, mine: Sequence[tuple[np.ndarray, np.ndarray]], other: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, Gap]:
    """The gap of the prompts as they are and of every resample, shape (1 + resamples,), and the whole plain Gap.

    `mine` and `other` list (diversity, reward) scores of shape (seeds, prompts), one pair a point of the frontier.
    """
    mine_d, mine_r = _stack(weights, mine)
    other_d, other_r = _stack(weights, other)
    plain = gap(mine_d[0], mine_r[0], other_d[0], other_r[0])
    drawn = zip(mine_d[1:], mine_r[1:], other_d[1:], other_r[1:], strict=True)
    resampled = [gap(*sides).gap for sides in drawn]
    return np.array([plain.gap, *resampled]), plain


def lies_above(
    weights: np.ndarray,
    level: float,
    axes: tuple[str, str],
    mine: Sequence[tuple[np.ndarray, np.ndarray]],
    other: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Finding:
    """Whether one frontier lies above another at equal diversity (points as in `gaps`; `axes` names reward, diversity).

    Shown when the mean gap is above zero with its interval and in every seed alone, and the frontier is the higher one
    over at least ABOVE of the common diversities.
    """
    statistic, plain = gaps(weights, mine, other)
    undefined = float(np.isnan(statistic).mean())
    if not np.isfinite(plain.gap) or undefined > MAX_UNDEFINED:
        nothing = Interval(plain.gap, float("nan"), float("nan"))
        note = f"hardly any common diversities ({undefined:.0%} of the resamples have none)"
        return Finding(axes, State.NOT_SHOWN, nothing, (), "no common diversities" if undefined == 1 else note)
    interval = Interval.of(statistic, level)
    per_seed = _seed_gaps(mine, other)
    state = _judge(interval, per_seed, 1)
    if state is State.SHOWN and plain.above < ABOVE:
        state = State.NOT_SHOWN
    note = f"above over {plain.above:.0%} of the common diversities {plain.low:.3g} to {plain.high:.3g}"
    return Finding(axes, state, interval, per_seed, note)


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
        a, b = _of_seed(mine, seed)
        c, d = _of_seed(other, seed if same else None)
        found.append(float(gap(a, b, c, d).gap))
    return tuple(found)


def _of_seed(points: Sequence[tuple[np.ndarray, np.ndarray]], seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    def one(scores: np.ndarray) -> float:
        scores = np.atleast_2d(scores)
        row = scores if seed is None or len(scores) == 1 else scores[seed : seed + 1]
        return float(np.nanmean(seed_mean(row)))

    return np.array([one(d) for d, _ in points]), np.array([one(r) for _, r in points])


def _stack(weights: np.ndarray, points: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Diversity and reward of every point under all weights, each of shape (1 + resamples, points)."""
    diversity = np.stack([means(weights, d) for d, _ in points], axis=1)
    reward = np.stack([means(weights, r) for _, r in points], axis=1)
    return diversity, reward


def _judge(interval: Interval, per_seed: Sequence[float], sign: int) -> State:
    if interval.sign() == sign and all(value * sign > 0 for value in per_seed):
        return State.SHOWN
    if interval.sign() == -sign and all(value * sign < 0 for value in per_seed):
        return State.OPPOSITE
    return State.NOT_SHOWN


def _positive_length(knots: np.ndarray, delta: np.ndarray) -> float:
    """Length over which the piecewise-linear function through (knots, delta) is above zero."""
    length = 0.0
    for width, left, right in zip(np.diff(knots), delta, delta[1:], strict=False):
        if left >= 0 and right >= 0:
            length += width * (left > 0 or right > 0)
        elif left > 0 or right > 0:
            length += width * max(left, right) / (abs(left) + abs(right))
    return float(length)
