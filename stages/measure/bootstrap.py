"""Intervals over prompts: the prompt, not the image, is the unit that a study draws at random.

Images of one prompt are alike, so every mean is taken inside a prompt first, then over prompts, and what is resampled
is whole prompts. Per-image and per-prompt metrics take the percentile bootstrap. Metrics of a whole set of images
(FID, recall, ...) take the delete-a-group jackknife: a bootstrap sample holds the same image several times, which
shifts exactly those metrics (neighbour radii shrink, covariances lose rank), while leaving prompts out does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from stages.errors import InputError
from stages.runtime import seed_from

ByPrompt: TypeAlias = Mapping[str, float | Sequence[float] | np.ndarray]
"""Prompt id to the value, or the values of all samples, of that prompt."""


@dataclass(frozen=True)
class Interval:
    """A mean over prompts and its interval; `low` and `high` are None where fewer than two prompts are there."""

    mean: float
    low: float | None
    high: float | None
    n_prompts: int

    def within(self, least: float, most: float) -> Interval:
        """The same, its ends cut to the values that the metric can take."""
        low, high = (None if end is None else min(max(end, least), most) for end in (self.low, self.high))
        return Interval(self.mean, low, high, self.n_prompts)


def interval(values_by_prompt: ByPrompt, n: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean over prompts (of means over samples) with a percentile bootstrap interval over prompts.

    `n` resamples; `level` is the coverage, in (0, 1). The result depends on the values and `seed`, not on the order of
    the prompts. Raises InputError where there is no prompt or a value is not finite.
    """
    means = _prompt_means(values_by_prompt)
    return _percentile(np.array([means[key] for key in sorted(means)]), n, level, seed)


def paired_interval(
    a_by_prompt: ByPrompt, b_by_prompt: ByPrompt, n: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of a - b over the prompts that both have, with a percentile bootstrap interval over those prompts.

    Both were sampled from the same noise, so differences are taken inside a prompt before anything is averaged.
    Raises InputError where the two share no prompt.
    """
    a, b = _prompt_means(a_by_prompt), _prompt_means(b_by_prompt)
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise InputError("a paired difference needs prompts that both sides have; these two share none")
    return _percentile(np.array([a[key] - b[key] for key in shared]), n, level, seed)


def ratio_interval(
    parts: np.ndarray, wholes: np.ndarray, groups: Sequence[Hashable], n: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """sum(parts) / sum(wholes) with a bootstrap over groups: a weighted share whose rows belong together in groups.

    `parts` and `wholes` are [m], `groups` names the group of every row; the wholes sum to more than 0.
    """
    _, index = np.unique(np.array([str(group) for group in groups]), return_inverse=True)
    count = int(index.max()) + 1
    part, whole = (np.bincount(index, np.asarray(v, np.float64), minlength=count) for v in (parts, wholes))
    mean = float(part.sum() / whole.sum())
    if count < 2:
        return Interval(mean, None, None, count)
    times = resamples(count, n, seed)
    below = times @ whole
    shares = (times @ part)[below > 0] / below[below > 0]
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), count)


def jackknife(
    statistic: Callable[[np.ndarray], float],
    prompt_ids: Sequence[str],
    level: float = 0.95,
    seed: int = 0,
    groups: int = 20,
) -> Interval:
    """A statistic of a set of images, with a delete-a-group jackknife interval over prompts.

    `statistic` takes the rows (indices into `prompt_ids`) that stay. Prompts are dealt at random to at most `groups`
    groups of nearly equal size; the statistic is taken without each group in turn, and its standard error
    sqrt((g-1)/g * sum (t_i - mean t)^2) is widened by the Student quantile with g-1 degrees of freedom
    (Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3).
    """
    from scipy.special import stdtrit  # Student's quantile; scipy.stats would take a second to import

    ids = np.asarray(prompt_ids)
    unique, inverse = np.unique(ids, return_inverse=True)
    whole = float(statistic(np.arange(len(ids))))
    parts = min(groups, len(unique))
    if parts < 3:  # one group left is no basis for a spread
        return Interval(whole, None, None, len(unique))
    rng = np.random.default_rng(seed_from("jackknife", seed, len(unique)))
    dealt = rng.permutation(np.arange(len(unique)) % parts)[inverse]
    without = np.array([statistic(np.flatnonzero(dealt != part)) for part in range(parts)], np.float64)
    error = math.sqrt((parts - 1) / parts * float(np.square(without - without.mean()).sum()))
    reach = float(stdtrit(parts - 1, (1 + level) / 2)) * error
    return Interval(whole, whole - reach, whole + reach, len(unique))


def _prompt_means(values_by_prompt: ByPrompt) -> dict[str, float]:
    means = {key: float(np.mean(np.asarray(value, np.float64))) for key, value in values_by_prompt.items()}
    if not means:
        raise InputError("an interval over prompts needs at least one prompt, found none")
    for key, value in means.items():
        if not math.isfinite(value):
            raise InputError(
                f"an interval over prompts needs finite values; those of prompt {key!r} average to {value}"
            )
    return means


def _percentile(means: np.ndarray, n: int, level: float, seed: int) -> Interval:
    mean = float(means.mean())
    if len(means) < 2:
        return Interval(mean, None, None, len(means))
    averages = resamples(len(means), n, seed) @ means / len(means)
    low, high = np.quantile(averages, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(means))


@lru_cache(maxsize=8)
def resamples(count: int, n: int, seed: int) -> np.ndarray:
    """[n, count] how often every one of `count` prompts is drawn in every resample: the same for all metrics."""
    rng = np.random.default_rng(seed_from("bootstrap", seed, count))
    return rng.multinomial(count, np.full(count, 1 / count), size=n).astype(np.float64)
