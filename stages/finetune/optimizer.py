"""The optimizer, and a step of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from stages.finetune.settings import OptimizerSettings

LOSS_SCALER = 65536.0  # start value of torch's GradScaler


def adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW before its first step."""
    s = settings
    return torch.optim.AdamW(parameters, lr=s.lr, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay, fused=True)


def update(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], double_step: bool) -> None:
    """Take a step on the gradients of the optimizer's parameters; with `double_step` one before it, on the gradients
    that no scaler has unscaled yet, as in the released code.
    """
    if double_step:
        for gradient in gradients:
            gradient.mul_(LOSS_SCALER)
        optimizer.step()
        for gradient in gradients:
            gradient.div_(LOSS_SCALER)
    optimizer.step()
