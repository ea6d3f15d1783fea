"""Searches on a mixture of Gaussians with the exact prediction: what their images are distributed as.

Particles and trees whose result is drawn approach p exp(lambda r) / Z as they hold more candidates; best of N has a
closed form of its own. Numbers of all of them, and the figure, are made by `python -m benchmarks.tilt`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

from benchmarks.tilt import SEARCHES, STRENGTH, chance, distance, plain, rewards, tilted

ROUNDING = 0.02
"""What the plain samples that stand for the tilted law may add to a distance."""


def probability(found: np.ndarray, others: np.ndarray) -> float:
    """Of a difference as large as theirs, were both of one distribution (Kolmogorov and Smirnov)."""
    result: Any = ks_2samp(found, others)
    return float(result.pvalue)


def away(name: str, candidates: int, count: int) -> float:
    return distance(rewards(SEARCHES[name], candidates, count), SEARCHES[name].steps)


@pytest.mark.parametrize(
    ("name", "few", "many", "count"), [("FK diff", 2, 48, 600), ("FK max", 2, 384, 300), ("DAS", 1, 16, 600)]
)
def test_particles_approach_the_tilted_law(name: str, few: int, many: int, count: int):
    """Many are as near as chance allows, a few are not."""
    assert away(name, few, count) > 1.5 * chance(count)
    assert away(name, many, count) < chance(count) + ROUNDING


def test_a_tree_approaches_the_tilted_law():
    """With any number of children from the first state on; with four children more slowly."""
    count, name = 120, "DTS, any number of children"
    one, few, many = (away(name, m, count) for m in (1, 4, 48))
    assert one > few > many
    assert one > 1.5 * chance(count)
    assert many < chance(count, 0.99) + ROUNDING
    ordered, cumulative = tilted(6)
    goal = float((ordered * np.diff(cumulative, prepend=0)).sum())
    means = [float(rewards(SEARCHES["DTS, 4 children"], m, 300).mean()) for m in (1, 16)]
    assert means[0] < means[1] - 0.1 < goal


def test_strength_0_is_plain_sampling():
    entry = SEARCHES["FK diff"]
    found = rewards(replace(entry, keys={**entry.keys, "strength": 0.0}), 8, 800)
    assert probability(found, plain(24)) > 1e-3


def test_the_best_particle_goes_further_than_the_tilt():
    entry = SEARCHES["FK diff"]
    assert distance(rewards(replace(entry, keys={**entry.keys, "result": "best"}), 48, 400), 24) > 0.3


@pytest.mark.parametrize("n", [1, 4, 16])
def test_best_of_n_has_its_closed_form(n: int):
    """The reward of the best of N is distributed as the largest of N plain ones."""
    groups = plain(24)[: 3000 * n].reshape(-1, n).max(1)
    assert probability(rewards(SEARCHES["best of N"], n, 1500), groups) > 1e-3


def test_the_distance_is_that_of_the_tilt():
    """Draws of the tilted law are within chance, those of p are not, and those of another strength are not."""
    ordered, cumulative = tilted(24)
    generator = np.random.default_rng(0)
    drawn = ordered[np.searchsorted(cumulative, generator.random(2000))]
    assert distance(drawn, 24) < chance(2000) < distance(plain(24), 24)
    shifted = np.exp(1.5 * STRENGTH * (ordered - ordered[-1]))
    assert distance(generator.choice(ordered, 2000, p=shifted / shifted.sum()), 24) > chance(2000)
