"""The rule by which a learning rate is chosen; docs/tuning.md says it and why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One learning rate of one method after its last step: rewards and diversity of training prompts.

    `reward` is of the training reward, `heldout` of the one that no method sees, one mean per prompt, in the same order
    in every trial; NaN where training broke down. `steps` are the optimizer steps it was trained for.
    """

    method: str
    lr: float
    steps: int
    reward: float
    heldout: tuple[float, ...]
    diversity: float

    @property
    def heldout_mean(self) -> float:
        """Mean over the prompts."""
        return statistics.fmean(self.heldout)


def choose(trials: Sequence[Trial], base_diversity: float, min_diversity: float) -> Trial:
    """Of the trials that keep `min_diversity` of the base's diversity, and whose held-out reward is not more than one
    standard error below the best of these, the one with the highest training reward; of equal ones the smallest rate.

    The standard error is that of the difference to the best trial, prompt by prompt. Where no trial keeps the
    diversity, the one that keeps most. Raises ValueError when every rate broke down.
    """
    whole = [trial for trial in trials if math.isfinite(trial.heldout_mean)]
    if not whole:
        raise ValueError("training broke down at every rate")
    kept = [trial for trial in whole if trial.diversity >= min_diversity * base_diversity]
    if not kept:
        return max(whole, key=lambda trial: (trial.diversity, -trial.lr))
    best = max(kept, key=lambda trial: trial.heldout_mean)
    level = [trial for trial in kept if _not_below(trial, best)]
    return max(level, key=lambda trial: (trial.reward, -trial.lr))


def _not_below(trial: Trial, best: Trial) -> bool:
    differences = [b - a for a, b in zip(trial.heldout, best.heldout, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return statistics.fmean(differences) <= error
