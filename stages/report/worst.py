"""Where a way of making images is worst: prompts by lost diversity, by disagreement of the judges, by a training reward
that rose while others fell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def changes(scores: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Change of a reward from the base's, in standard deviations of the base over prompts, so that rewards can be
    compared: `scores` has shape (training seeds, prompts), `base` (prompts).
    """
    spread = float(np.nanstd(base))
    return (scores - base) / (spread if spread > 0 else 1.0)


def disagreement(changed: Mapping[str, np.ndarray]) -> np.ndarray:
    """The largest change of a reward less the smallest, (training seeds, prompts); zero with a single reward."""
    found = np.stack(list(changed.values()))
    return found.max(0) - found.min(0)


def turned(changed: Mapping[str, np.ndarray], trained: str) -> np.ndarray:
    """How far the training reward rose plus how far another one fell most, (training seeds, prompts); zero where the
    training reward did not rise, or no other one fell.
    """
    others: Sequence[np.ndarray] = [values for reward, values in changed.items() if reward != trained]
    if trained not in changed or not others:
        return np.zeros_like(next(iter(changed.values())))
    rise, fall = changed[trained], np.stack(others).min(0)
    return np.where((rise > 0) & (fall < 0), rise - fall, 0.0)
