"""The statistics behind the verdicts: paired bootstrap over prompts and training seeds, changes, monotone trades.

Everything here is a pure function of arrays. Scores have shape (training seeds, prompts). A statistic is computed once
for the data as they are and once per resample; all values stand in one array of shape (1 + resamples,), the one of the
data first.
Every resample draws the same prompts for all methods, and where training seeds are drawn too, the same of them, so
that every comparison is paired. Intervals over prompts alone say how much an answer depends on which prompts were
asked, not how much on the training seed; and a few seeds are few to draw from. So a claim counts as shown only when,
besides, every training seed alone points the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np

from stages.measure import bootstrap
from stages.runtime import seed_from

BACKTRACK = 0.1
"""A trade may go back by this share of its whole change and still count as monotone."""


POWER = 0.8
"""Chance of being seen that the smallest detectable effect has."""


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
class Draws:
    """The resamples that all statistics share: `prompts` are weights of shape (1 + resamples, prompts), rows sum to 1.

    `seed` draws training seeds as well, each resample its own; None keeps them all.
    """

    prompts: np.ndarray
    seed: int | None = None

    @classmethod
    def of(cls, prompts: int, resamples: int, seed: int, training_seeds: bool = False) -> Draws:
        """Draws of so many prompts, and of training seeds where asked."""
        return cls(prompt_weights(prompts, resamples, seed), seed if training_seeds else None)

    def seeds(self, count: int) -> np.ndarray:
        """Weights of `count` training seeds, (1 + resamples, count), or (1, count) where they are not drawn."""
        if self.seed is None or count == 1:
            return np.full((1, count), 1 / count)
        generator = np.random.default_rng(seed_from("training seeds", self.seed, count))
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=len(self.prompts) - 1)
        return np.vstack([np.ones((1, count)), drawn]) / count


@dataclass(frozen=True)
class Outcome:
    """What the data say about one effect.

    `interval` is of a difference or a mean gap; `per_seed` are the values of the single training seeds; `area` is of
    the area between two frontiers, where they were compared. `detectable` is the smallest effect that the data could
    have shown, `p` a two-sided p-value and `p_adjusted` the same counted together with others, where there are any.
    """

    state: State
    interval: Interval
    per_seed: tuple[float, ...]
    note: str = ""
    area: Interval | None = None
    detectable: float = math.nan
    p: float = math.nan
    p_adjusted: float = math.nan


def average(scores: np.ndarray) -> float:
    """The mean of the scores that there are; NaN where there is none, as of images that pass where none does."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")


def prompt_weights(prompts: int, resamples: int, seed: int) -> np.ndarray:
    """Weights of shape (1 + resamples, prompts): rows sum to 1; row 0 is uniform, the others draw with replacement.

    The draws are those of `stages.measure.bootstrap`, so an interval here is the interval there.
    """
    return np.vstack([np.ones((1, prompts)), bootstrap.resamples(prompts, resamples, seed)]) / prompts


def means(draws: Draws, scores: np.ndarray) -> np.ndarray:
    """The statistic "mean over seeds and prompts", shape (1 + resamples,), of scores (seeds, prompts) or (prompts,).

    A prompt without a score (NaN) in every seed is left out; NaN where no prompt is left.
    """
    return _over_prompts(draws, by_prompt(draws, scores))


def by_prompt(draws: Draws, scores: np.ndarray) -> np.ndarray:
    """Mean over the drawn seeds per prompt, shape (1 + resamples or 1, prompts); NaN where none has a score."""
    scores = np.atleast_2d(scores)
    weights, valid = draws.seeds(len(scores)), np.isfinite(scores)
    count = weights @ valid
    total = weights @ np.where(valid, scores, 0.0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _over_prompts(draws: Draws, values: np.ndarray) -> np.ndarray:
    """Weighted mean over the prompts that have a value; `values` (1 + resamples or 1, prompts)."""
    weighed = draws.prompts * np.isfinite(values)
    total = weighed.sum(axis=1)
    summed = (weighed * np.nan_to_num(values)).sum(axis=1)
    return np.divide(summed, total, out=np.full(len(weighed), np.nan), where=total > 0)


def seed_mean(scores: np.ndarray) -> np.ndarray:
    """Mean over seeds per prompt, shape (prompts,); NaN where no seed has a score."""
    scores = np.atleast_2d(scores)
    valid = np.isfinite(scores)
    count = valid.sum(axis=0)
    total = np.where(valid, scores, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(scores.shape[1], np.nan), where=count > 0)


def difference(draws: Draws, scores: np.ndarray, against: np.ndarray) -> np.ndarray:
    """The statistic "mean paired difference", over the prompts that both sides have."""
    return _over_prompts(draws, by_prompt(draws, scores) - by_prompt(draws, against))


def paired_seeds(scores: np.ndarray, against: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (prompts,) scores, seed i with seed i; where the numbers of seeds differ, each seed of the side that has
    more with the mean over seeds of the other (the base has one)."""
    scores, against = np.atleast_2d(scores), np.atleast_2d(against)
    if len(scores) == len(against):
        return list(zip(scores, against, strict=True))
    if len(scores) > len(against):
        return [(row, seed_mean(against)) for row in scores]
    return [(seed_mean(scores), row) for row in against]


def changes(draws: Draws, level: float, scores: np.ndarray, against: np.ndarray, sign: int) -> Outcome:
    """Whether a metric moved in the direction `sign` (1 up, -1 down): interval beyond zero, every seed alone agrees."""
    statistic = difference(draws, scores, against)
    interval = Interval.of(statistic, level)
    per_seed = tuple(average(mine - other) for mine, other in paired_seeds(scores, against))
    least = detectable(statistic, per_seed, draws.seed is not None, level)
    return Outcome(state_of(interval, per_seed, sign), interval, per_seed, detectable=least)


def detectable(statistic: np.ndarray, per_seed: Sequence[float], seeds_drawn: bool, level: float) -> float:
    """The smallest effect that is seen with a probability of POWER: (z of (1 + level) / 2 + z of POWER) times the
    standard error.

    The squared standard error is the variance of the resamples, of a statistic (1 + resamples,), and that between the
    S training seeds: their variance s^2 / S where the resamples keep all seeds, and the s^2 / S^2 that S seeds drawn
    with replacement fall short by where they are drawn. Of a single seed nothing is known of the latter.
    """
    from scipy.special import ndtri  # the normal quantile; scipy.stats would take a second to import

    resampled = statistic[1:][np.isfinite(statistic[1:])]
    if len(resampled) < 2:
        return math.nan
    variance, count = float(resampled.var(ddof=1)), len(per_seed)
    if count > 1:
        variance += float(np.var(per_seed, ddof=1)) / (count**2 if seeds_drawn else count)
    return float(ndtri((1 + level) / 2) + ndtri(POWER)) * math.sqrt(variance)


def monotone(draws: Draws, level: float, path: Sequence[np.ndarray], sign: int) -> Outcome:
    """Whether a metric moves one way along `path`, the scores (seeds, prompts) at k = 0, ..., T in order.

    Shown when (1) the whole change from the first to the last has direction `sign`, beyond zero and in every seed, (2)
    no step between neighbours goes the other way with an interval beyond zero, and (3) the steps that go the other way
    make up at most BACKTRACK of the whole change.
    """
    whole = changes(draws, level, path[-1], path[0], sign)
    statistics = [difference(draws, after, before) for before, after in pairwise(path)]
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
    return replace(whole, state=state, note=note)


def state_of(interval: Interval, per_seed: Sequence[float], sign: int) -> State:
    """What an interval and the single seeds say about an effect of the direction `sign`."""
    if interval.sign() == sign and all(value * sign > 0 for value in per_seed):
        return State.SHOWN
    if interval.sign() == -sign and all(value * sign < 0 for value in per_seed):
        return State.OPPOSITE
    return State.NOT_SHOWN
