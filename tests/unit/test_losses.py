from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.finetune.losses.ddpo import clipped_loss
from stages.finetune.losses.sqdf import soft_q_loss


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_clipped_loss_case_by_case(ratio: float, advantage: float, loss: float, gradient: float):
    """With a clip of 0.2; the gradient by the new log density is that of the loss, 0 where the clip holds."""
    new = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    found = clipped_loss(new, torch.zeros(1), torch.tensor([advantage]), 0.2, 5.0)
    found.loss.backward()
    assert found.ratio.item() == pytest.approx(ratio)
    assert found.loss.item() == pytest.approx(loss)
    assert new.grad is not None
    assert float(new.grad) == pytest.approx(gradient)


def test_advantages_are_clamped():
    found = clipped_loss(torch.zeros(2), torch.zeros(2), torch.tensor([9.0, -7.0]), 0.1, 5.0)
    assert found.unclipped.tolist() == [-5.0, 5.0]


def test_soft_q_loss_in_numpy():
    reward, divergence = draws(5).numpy(), draws(5, seed=1).abs().numpy()
    left = np.array([0, 3, 49, 1, 7])
    r, d, n = (torch.from_numpy(values) for values in (reward, divergence, left))
    terms = 2.0 * divergence - 0.9**left * reward
    assert float(soft_q_loss(r, d, n, 0.9, 2.0)) == pytest.approx(np.mean(terms))
    assert float(soft_q_loss(r, d, n, 0.9, 2.0, r > 0)) == pytest.approx(np.mean(np.where(reward > 0, terms, 0)))
    assert (reward > 0).any() and (reward <= 0).any()
