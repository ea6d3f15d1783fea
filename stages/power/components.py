"""Variance components of a score, and the power that a study of so many seeds, prompts and images has.

A score y[s, p, j] of training seed s, prompt p and image j of the prompt, whose starting noise is the same for every
seed, is modelled as

    y = mean + seed_s + prompt_p + image_j(p) + seed_prompt_sp + seed_image_sj(p),

all of them independent with a variance each. These are estimated by the mean squares of the balanced design (Searle,
Casella and McCulloch, Variance Components, 1992, section 4.4), negative ones set to 0. Two methods are compared on the
same prompts and noise, so prompt and image cancel: the squared standard error of the difference of their means is

    2 (seed / S + seed_prompt / (S P) + seed_image / (S P n)),

for S seeds, P prompts and n images per prompt of each; the difference over it has Student's t distribution with
2 (S - 1) degrees of freedom, with the true gap over the standard error as its noncentrality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.errors import InputError


@dataclass(frozen=True)
class Components:
    """Variances, in squared units of the score, and how many training seeds they rest on."""

    seed: float
    prompt: float
    image: float
    seed_prompt: float
    seed_image: float
    seeds: int

    @classmethod
    def of(cls, scores: np.ndarray) -> Components:
        """From scores [S, P, n], all finite; raises InputError with fewer than two of anything."""
        seeds, prompts, images = scores.shape
        if min(scores.shape) < 2:
            raise InputError(
                f"power: found {seeds} training seeds, {prompts} prompts and {images} images per prompt, expected at"
                " least two of each"
            )
        s, p = scores.mean((1, 2), keepdims=True), scores.mean((0, 2), keepdims=True)
        sp, pj, mean = scores.mean(2, keepdims=True), scores.mean(0, keepdims=True), scores.mean()
        error = np.square(scores - sp - pj + p).sum() / ((seeds - 1) * prompts * (images - 1))
        crossed = images * np.square(sp - s - p + mean).sum() / ((seeds - 1) * (prompts - 1))
        by_seed = prompts * images * np.square(s - mean).sum() / (seeds - 1)
        by_image = seeds * np.square(pj - p).sum() / (prompts * (images - 1))
        by_prompt = seeds * images * np.square(p - mean).sum() / (prompts - 1)
        return cls(
            seed=_above(by_seed - crossed, prompts * images),
            prompt=_above(by_prompt - by_image - crossed + error, seeds * images),
            image=_above(by_image - error, seeds),
            seed_prompt=_above(crossed - error, images),
            seed_image=float(error),
            seeds=seeds,
        )

    def error(self, seeds: int, prompts: int, images: int) -> float:
        """Standard error of the difference of two methods."""
        left = self.seed + (self.seed_prompt + self.seed_image / images) / prompts
        return math.sqrt(2 * left / seeds)


def _above(difference: float, count: int) -> float:
    return max(0.0, float(difference) / count)


def power(gap: float, error: float, seeds: int, level: float) -> float:
    """The probability that a two-sided t test of two methods of `seeds` seeds each sees the true gap.

    `level` is 1 less the significance level. 1 where there is no error.
    """
    from scipy.special import nctdtr, stdtrit

    if error == 0:
        return 1.0
    freedom, off = 2 * (seeds - 1), abs(gap) / error
    limit = float(stdtrit(freedom, (1 + level) / 2))
    if off > 30:  # where SciPy's function has no value any more, and the power no digit below 1 that matters
        return 1.0 if off > limit + 6 else 0.0
    return float(1 - nctdtr(freedom, off, limit) + nctdtr(freedom, off, -limit))


def detectable(error: float, seeds: int, wanted: float, level: float) -> float:
    """The smallest gap that is seen with the probability `wanted`, by bisection; 0 where there is no error."""
    low, high = 0.0, error
    while error and power(high, error, seeds, level) < wanted:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, error, seeds, level) < wanted else (low, middle)
    return high


@dataclass(frozen=True)
class Cost:
    """Network evaluations of one training run, and of the images of one (prompt, sample) over all points of a curve."""

    training: float
    image: float

    def of(self, seeds: int, prompts: int, images: int) -> float:
        """Those of two methods; the base's are not counted."""
        return 2 * seeds * (self.training + prompts * images * self.image)


@dataclass(frozen=True)
class Design:
    """So many seeds, prompts and images per prompt, with the smallest gap that they see and what they cost."""

    seeds: int
    prompts: int
    images: int
    detectable: float
    evaluations: float


@dataclass(frozen=True)
class Question:
    """A gap to be seen with the probability `wanted` at a level, and what it costs to look."""

    components: Components
    gap: float
    wanted: float
    level: float
    cost: Cost

    def design(self, seeds: int, prompts: int, images: int) -> Design:
        """What a design would see."""
        error = self.components.error(seeds, prompts, images)
        least = detectable(error, seeds, self.wanted, self.level)
        return Design(seeds, prompts, images, least, self.cost.of(seeds, prompts, images))

    def designs(self, seeds: range, prompts: list[int], images: list[int]) -> list[Design]:
        """For each number of seeds the cheapest design that sees the gap, where there is one."""
        found = []
        for count in seeds:
            tried = (self.design(count, p, n) for p in prompts for n in images)
            fit = [one for one in tried if one.detectable <= self.gap]
            found += sorted(fit, key=lambda one: (one.evaluations, one.prompts))[:1]
        return found
