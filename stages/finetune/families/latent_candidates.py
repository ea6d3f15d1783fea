"""Candidates that are scored as noisy latents, without decoding them, by a reward that judges those (LPO)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.families.candidates import CandidateRollouts, Candidates
from stages.finetune.families.latent_settings import LatentCandidateSettings
from stages.finetune.families.step_preference import StepPairs
from stages.finetune.objective import Loss, Run
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian

LS = TypeVar("LS", bound=LatentCandidateSettings)
DIGITS = 4
"""Decimals of the deviations, and of their squares, in the released tables."""


class LatentCandidates(CandidateRollouts[LS]):
    """The objective on such candidates; the policy is evaluated only at the one that is followed."""

    def __init__(self, settings: LS, run: Run, loss: Callable[[StepPairs, LS], Loss]) -> None:
        super().__init__(settings, run, loss)
        self.thresholds = thresholds(self.measure(), settings.threshold, settings.threshold_high)

    def measure(self) -> Tensor:
        """What the threshold rises with at each of the T steps, [T]: deviation or variance of its noise, or its
        timestep.
        """
        count, timesteps = len(self.chain), self.run.networks.grid.timesteps
        if self.settings.threshold_law == "timestep":
            return timesteps.double()
        nothing = torch.zeros(count, 1, 1, 1, device=timesteps.device)
        std = self.chain.step(nothing, nothing, torch.arange(count, device=timesteps.device)).std
        std = (std.double().flatten() / self.settings.eta).round(decimals=DIGITS)
        return std if self.settings.threshold_law == "deviation" else std.square().round(decimals=DIGITS)

    def candidates(self, step: Gaussian, i: int, batch: Batch, text: Conditioning) -> Candidates:
        """The candidates of step i, scored at the timestep of the step that makes them (as released), not their own."""
        rows, t = range(len(batch.prompts)), float(self.run.networks.grid.timesteps[i])
        states, scores = [], []
        for number in range(self.settings.candidates):
            states.append(step.sample(batch.noise.rows(rows, [number] * len(rows)).step(i)))
            scores.append(self.settings.scale * self.run.reward.of_latents(states[-1], batch.prompts, t))
        return Candidates(torch.stack(states), None, torch.stack(scores))

    def threshold(self, i: int) -> float:
        """The threshold of step i."""
        return self.thresholds[i]


def thresholds(measure: Tensor, low: float, high: float) -> list[float]:
    """From `low` at the smallest entry of `measure` [T] to `high` at the largest, linear in between."""
    spread = float(measure.max() - measure.min())
    share = (measure - measure.min()) / spread if spread else torch.zeros_like(measure)
    return (low + (high - low) * share).tolist()
