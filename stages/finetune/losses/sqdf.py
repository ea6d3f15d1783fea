"""SQDF (Kang et al. 2026, arXiv 2512.04559): the discounted reward of the predicted clean image, minus divergence."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_q_loss(
    reward: Tensor, divergence: Tensor, steps_left: Tensor, gamma: float, alpha: float, counted: Tensor | None = None
) -> Tensor:
    """Mean over b of c_b (-gamma^n r + alpha d), all [B]; `steps_left` n is 0 at the last step.

    `counted` c [B] is 1 for the images that are learnt from and 0 for those that are left out whole, divergence and
    all; None counts every image. The released code (alignprop_trainer.py) leaves out those with r <= 0.
    """
    discount = torch.as_tensor(gamma, dtype=reward.dtype, device=reward.device) ** steps_left
    terms = alpha * divergence - discount * reward
    return (terms if counted is None else counted.to(terms.dtype) * terms).mean()
