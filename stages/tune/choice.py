"""The rule by which a learning rate is chosen; stated in docs/tuning.md before any sweep was run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One learning rate of one method after its last step: rewards and diversity of training prompts.

    `reward` is of the training reward, `heldout` of the one that no method sees; NaN where training broke down.
    """

    method: str
    lr: float
    reward: float
    heldout: float
    diversity: float


def choose(trials: Sequence[Trial], base_diversity: float, min_diversity: float) -> Trial:
    """The trial of the highest held-out reward among those that keep `min_diversity` of the base's diversity.

    Of equal ones the smallest rate; where none keeps it, the one that keeps most. Raises ValueError when every rate
    broke down.
    """
    whole = [trial for trial in trials if math.isfinite(trial.heldout)]
    if not whole:
        raise ValueError("training broke down at every rate")
    kept = [trial for trial in whole if trial.diversity >= min_diversity * base_diversity]
    if not kept:
        return max(whole, key=lambda trial: (trial.diversity, -trial.lr))
    return max(kept, key=lambda trial: (trial.heldout, -trial.lr))
