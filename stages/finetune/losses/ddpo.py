"""DDPO with importance sampling (Black et al. 2024, arXiv 2305.13301) on log densities of one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
