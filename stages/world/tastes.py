"""Tastes of simulated annotators: what they like beside what all of them do.

An annotator of a taste prefers by the oracle's utility plus the term of the taste, so that annotators of opposite
tastes agree on captions, sharpness and faults, and not on size or background. Nothing else tells annotators apart:
annotator n has the taste with the number n modulo the number of tastes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.world.oracle import Parsed, utility
from stages.world.scene import LUMA

WEIGHT = 1.0
"""Utility of a standard deviation of what a taste is about."""
SIZE, SPREAD = -0.67, 0.2
"""Mean and standard deviation of the log size of objects in this world."""
LIGHT, LIGHT_SPREAD = 0.44, 0.23
"""The same of the luma of backgrounds."""
MOST = 2.0
"""Standard deviations beyond which more makes no difference."""


def term(seen: Parsed, taste: str) -> np.ndarray:
    """float [n]: what pictures are worth to a taste beside their utility; 0 for a picture without an object."""
    size = np.clip((seen.log_size - SIZE) / SPREAD, -MOST, MOST)
    light = np.clip((seen.background @ LUMA - LIGHT) / LIGHT_SPREAD, -MOST, MOST)
    found = {"large": size, "small": -size, "light": light, "dark": -light}[taste]
    return np.where(seen.empty, 0.0, WEIGHT * found)


def liked(seen: Parsed, captions: Sequence[str], tastes: Sequence[str]) -> np.ndarray:
    """float [n]: the utility of each picture to somebody with the taste of the same place."""
    every = {name: term(seen, name) for name in dict.fromkeys(tastes)}
    return utility(seen, captions) + np.array([every[name][row] for row, name in enumerate(tastes)])
