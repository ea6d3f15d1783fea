"""Soft values of states, and draws in proportion to them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def drawn(values: Sequence[float], strength: float, uniform: float) -> int:
    """A place drawn in proportion to exp(strength value): the first whose cumulative share exceeds the uniform."""
    highest = max(values)
    powers = [math.exp(strength * (value - highest)) for value in values]
    total, share = sum(powers), 0.0
    for place, power in enumerate(powers):
        share += power / total
        if share > uniform:
            return place
    return len(values) - 1


def soft_mean(values: Sequence[float], strength: float) -> float:
    """(1 / strength) log mean exp(strength value); the mean for a strength near 0, not lost in rounding."""
    highest = max(values)
    below = sum(math.expm1(strength * (v - highest)) for v in values) / len(values)
    return highest + math.log1p(below) / strength
