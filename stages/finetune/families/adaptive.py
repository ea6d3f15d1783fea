"""Pairs whose margins are also taken under two averages of the policy, a slow and a fast one (Adaptive-DPO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.pair_errors import Noisy, Outputs, PairErrors
from stages.finetune.families.pair_settings import AdaptiveSettings
from stages.finetune.families.preference import PairedPreference
from stages.finetune.families.reference import Earlier
from stages.finetune.objective import Loss, Run

A = TypeVar("A", bound=AdaptiveSettings)


def decay(nominal: float, step: int) -> float:
    """Decay of an average at optimizer step `step` (from 1): at most (1 + k) / (10 + k) with k = step - 1, and 0 in the
    first step, as in the release's averaging class (diffusers' EMAModel), so that a slow average is fast for long.
    """
    k = step - 1
    return min(nominal, (1 + k) / (10 + k)) if k > 0 else 0.0


class AdaptivePreference(PairedPreference[A]):
    """The objective; averages start as the policy, and count from optimizer step `warm_up` on."""

    def __init__(self, settings: A, run: Run, loss: Callable[[PairErrors, A], Loss]) -> None:
        super().__init__(settings, run, loss)
        self.averages = [Earlier(run.networks.policy) for _ in settings.decays] if settings.averages else []
        self.step = 0

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The reference and the averages as they are in this step."""
        self.step = optimizer_step(batches)
        for average, nominal in zip(self.averages, self.settings.decays, strict=False):
            if self.step:
                average.average(decay(nominal, self.step))
        return super().collect(batches)

    @torch.no_grad()
    def further(self, noisy: Noisy) -> tuple[Outputs, ...] | None:
        """The averages' predictions for noisy latents, in batches of the same rows as the reference's: where both have
        the same weights, the margin is exactly 0, not a rounding error, which division by the norm of the margins
        would blow up. None before the warm-up is over.
        """
        if self.step < self.settings.warm_up:
            return None
        return tuple(Outputs.of(average.prediction, None, noisy) for average in self.averages)

    def state_dict(self) -> dict[str, Any]:
        """The weights of the averages, and those of the reference where they change."""
        return super().state_dict() | {"averages": [average.weights for average in self.averages]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        super().load_state_dict(state)
        for average, weights in zip(self.averages, state["averages"], strict=True):
            average.weights = [w.to(p.device) for w, p in zip(weights, average.parameters, strict=True)]
