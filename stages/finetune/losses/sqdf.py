"""SQDF (Kang et al. 2026, arXiv 2512.04559): the discounted reward of the predicted clean image, minus divergence."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_q_loss(
    reward: Tensor, divergence: Tensor, steps_left: Tensor, gamma: float, alpha: float, positive_only: bool = True
) -> Tensor:
    """Mean over b of 1[r > 0] (-gamma^n r + alpha d), all [B]; `steps_left` n is 0 at the last step.

    With `positive_only` images without a positive reward are left out whole, as in the released code
    (alignprop_trainer.py); without, every image counts.
    """
    discount = torch.as_tensor(gamma, dtype=reward.dtype, device=reward.device) ** steps_left
    terms = alpha * divergence - discount * reward
    return ((reward > 0) * terms if positive_only else terms).mean()
