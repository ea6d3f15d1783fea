"""DDPO's losses (Black et al. 2024, arXiv 2305.13301) on log densities of single steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.finetune.families.policy_gradient import StepDensities
from stages.finetune.objective import Loss


@dataclass(frozen=True)
class Clipped:
    """`ratio` [B] of new to old density; the two losses [B]; `loss`, the mean of the larger."""

    ratio: Tensor
    unclipped: Tensor
    clipped: Tensor
    loss: Tensor


def clipped_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float, largest: float) -> Clipped:
    """PPO's loss from log densities [B] under the policy and under the sampling policy.

    Advantages [B] are clamped to [-largest, largest], the ratio to [1 - clip, 1 + clip].
    """
    advantages = advantages.clamp(-largest, largest)
    ratio = torch.exp(new - old)
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return Clipped(ratio, unclipped, clipped, torch.maximum(unclipped, clipped).mean())


def clipped_step_loss(steps: StepDensities, clip: float, largest: float) -> Loss:
    """`clipped_loss` of some steps, with the mean `ratio` and the share of ratios that are `clipped` for the log."""
    found = clipped_loss(steps.log_prob, steps.old_log_prob, steps.advantage, clip, largest)
    outside = ((found.ratio - 1).abs() > clip).float().mean()
    return Loss.of(found.loss, ratio=found.ratio.mean(), clipped=outside)


def score_loss(steps: StepDensities, largest: float) -> Loss:
    """-mean A log p of some steps: the score function, right for the policy that made the rollouts only."""
    return Loss.of(-(steps.advantage.clamp(-largest, largest) * steps.log_prob).mean())
