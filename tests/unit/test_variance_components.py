"""Variance components and power: against made-up studies whose variances are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stages.errors import InputError
from stages.power.components import Components, Cost, Question, detectable, power

TRUE = {"seed": 0.3, "prompt": 1.0, "image": 0.5, "seed_prompt": 0.4, "seed_image": 0.8}
"""Standard deviations."""


def scores(rng: np.random.Generator, seeds: int, prompts: int, images: int, **changes: float) -> np.ndarray:
    """Scores [S, P, n] of a method."""
    s = TRUE | changes
    return (
        s["seed"] * rng.standard_normal((seeds, 1, 1))
        + s["prompt"] * rng.standard_normal((1, prompts, 1))
        + s["image"] * rng.standard_normal((1, prompts, images))
        + s["seed_prompt"] * rng.standard_normal((seeds, prompts, 1))
        + s["seed_image"] * rng.standard_normal((seeds, prompts, images))
    )


def test_components_are_found_without_bias() -> None:
    """Means over many studies; only what is set to 0 where it is negative would pull them up, and here nothing is."""
    rng = np.random.default_rng(0)
    found = [Components.of(scores(rng, 8, 12, 4)) for _ in range(400)]
    for name, deviation in TRUE.items():
        assert np.mean([getattr(one, name) for one in found]) == pytest.approx(deviation**2, rel=0.1), name


def test_mean_squares_of_a_small_table() -> None:
    """Two seeds that differ by 2 everywhere, two prompts by 4, two images by 1: no interaction, no error."""
    table = np.array([0, 2])[:, None, None] + np.array([0, 4])[None, :, None] + np.array([0, 1])[None, None]
    found = Components.of(table.astype(float))
    assert (found.seed, found.seed_prompt, found.seed_image) == pytest.approx((2.0, 0.0, 0.0))
    assert found.image == pytest.approx(0.5)  # the variance of 0 and 1
    assert found.prompt == pytest.approx(8.0 - 0.5 / 2)  # that of means of two images has half the images' in it


def test_the_error_is_that_of_two_methods_on_the_same_prompts_and_noise() -> None:
    rng = np.random.default_rng(1)
    exact = Components(*(TRUE[name] ** 2 for name in TRUE), seeds=2)
    apart = []
    for _ in range(4000):
        one, other = scores(rng, 3, 6, 2, prompt=0, image=0), scores(rng, 3, 6, 2, prompt=0, image=0)
        apart.append(one.mean() - other.mean())
    assert np.std(apart) == pytest.approx(exact.error(3, 6, 2), rel=0.05)


@pytest.mark.parametrize(("gap", "error", "seeds"), [(1.0, 0.4, 3), (0.5, 0.4, 6), (0.0, 1.0, 4), (2.0, 0.3, 2)])
def test_power_is_how_often_a_t_test_sees_the_gap(gap: float, error: float, seeds: int) -> None:
    """Brute force: two groups of seed means, pooled variance, the 5 % level."""
    from scipy.stats import t

    rng, studies = np.random.default_rng(2), 20_000
    deviation = error * math.sqrt(seeds / 2)
    one = gap + deviation * rng.standard_normal((studies, seeds))
    other = deviation * rng.standard_normal((studies, seeds))
    pooled = np.sqrt((one.var(1, ddof=1) + other.var(1, ddof=1)) / seeds)
    seen = np.abs(one.mean(1) - other.mean(1)) / pooled > t.ppf(0.975, 2 * (seeds - 1))
    assert power(gap, error, seeds, 0.95) == pytest.approx(seen.mean(), abs=0.015)


def test_the_detectable_gap_has_the_wanted_power() -> None:
    for seeds in (2, 3, 10, 30):
        least = detectable(0.2, seeds, 0.8, 0.95)
        assert power(least, 0.2, seeds, 0.95) == pytest.approx(0.8, abs=1e-6)
    assert detectable(0.2, 10_000, 0.8, 0.95) == pytest.approx(0.2 * 2.80159, rel=1e-3)  # of a normal distribution
    assert detectable(0.0, 3, 0.8, 0.95) == 0 and power(1.0, 0.0, 2, 0.95) == 1


def test_designs_see_the_gap_at_the_least_cost() -> None:
    components = Components(0.01, 1.0, 0.1, 0.02, 0.2, seeds=3)
    question = Question(components, 0.3, 0.8, 0.95, Cost(training=1000.0, image=20.0))
    prompts, images = [8, 16, 32], [2, 4, 8]
    found = question.designs(range(2, 13), prompts, images)
    assert found
    for one in found:
        assert one.detectable <= 0.3
        assert one.evaluations == 2 * one.seeds * (1000 + one.prompts * one.images * 20)
        cheaper = [question.design(one.seeds, p, n) for p in prompts for n in images]
        assert all(other.detectable > 0.3 for other in cheaper if other.evaluations < one.evaluations)
    most = question.design(min(one.seeds for one in found) - 1, 32, 8)
    assert most.seeds < 2 or most.detectable > 0.3  # with fewer seeds no number of images is enough


def test_a_single_seed_says_nothing() -> None:
    with pytest.raises(InputError, match="found 1 training seeds, 3 prompts and 4 images per prompt"):
        Components.of(np.zeros((1, 3, 4)))
