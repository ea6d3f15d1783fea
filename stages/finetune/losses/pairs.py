"""Losses of margins of preference pairs, which several methods of the family share; all are elementwise on [N]."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def logistic(margin: Tensor, beta: float, right: Tensor | float = 1.0) -> Tensor:
    """-(p log sigmoid(z) + (1 - p) log sigmoid(-z)) with z = beta / 2 margin, where p = `right` is the probability that
    the preference is right (conservative DPO, Mitchell 2023); 1 is Diffusion-DPO's loss.
    """
    z = beta / 2 * margin
    if isinstance(right, float) and right == 1.0:
        return -logsigmoid(z)
    return -(right * logsigmoid(z) + (1 - right) * logsigmoid(-z))


def robust(margin: Tensor, beta: float, wrong: float) -> Tensor:
    """(-(1 - w) log sigmoid(z) + w log sigmoid(-z)) / (1 - 2 w), z as in `logistic`: without bias where a share
    `wrong` < 1/2 of the preferences is exchanged (Chowdhury et al. 2024, arXiv 2403.00409, equation 10).
    """
    z = beta / 2 * margin
    return (-(1 - wrong) * logsigmoid(z) + wrong * logsigmoid(-z)) / (1 - 2 * wrong)


def hinge(margin: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta / 2 margin) (SLiC, Zhao et al. 2023, arXiv 2305.10425)."""
    return (1 - beta / 2 * margin).clamp(min=0)


def regression(margin: Tensor, value: float) -> Tensor:
    """(margin - value)^2 (IPO, Azar et al. 2024, arXiv 2310.12036)."""
    return (margin - value).square()
