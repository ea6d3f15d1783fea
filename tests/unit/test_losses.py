from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.finetune.losses.ddpo import clipped_loss
from stages.finetune.losses.diffusion_dpo import denoising_errors, preference_loss
from stages.finetune.losses.sqdf import soft_q_loss


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_preference_loss_of_equal_networks_is_log_2():
    errors = draws(6).abs()
    found = preference_loss(errors, errors, 5000.0)
    assert float(found.loss) == pytest.approx(math.log(2))
    assert float(found.accuracy) == 0


def test_preference_loss_in_numpy():
    policy, reference, beta = draws(8, seed=1).abs().numpy(), draws(8, seed=2).abs().numpy(), 3.0
    found = preference_loss(torch.from_numpy(policy), torch.from_numpy(reference), beta)
    margin = (policy[4:] - policy[:4]) - (reference[4:] - reference[:4])
    np.testing.assert_allclose(found.inside.numpy(), beta / 2 * margin)
    assert float(found.loss) == pytest.approx(np.mean(np.log(1 + np.exp(-beta / 2 * margin))))
    assert float(found.accuracy) == pytest.approx(np.mean(margin > 0))


def test_preference_loss_wants_preferred_errors_smaller_and_the_others_larger():
    policy = draws(6).abs().requires_grad_(True)
    preference_loss(policy, draws(6, seed=1).abs(), 2.0).loss.backward()
    assert policy.grad is not None
    assert (policy.grad[:3] > 0).all()
    assert (policy.grad[3:] < 0).all()


def test_preference_loss_survives_strong_beta():
    found = preference_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), 1e6)
    assert float(found.loss) == pytest.approx(5e5)


def test_denoising_errors():
    eps, noise = draws(2, 4, 3, 3), draws(2, 4, 3, 3, seed=1)
    expected = ((eps.numpy() - noise.numpy()) ** 2).reshape(2, -1).mean(1)
    np.testing.assert_allclose(denoising_errors(eps, noise).numpy(), expected)


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
