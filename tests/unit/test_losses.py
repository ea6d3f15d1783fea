from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from stages.finetune.losses.ddpo import clipped_loss
from stages.finetune.losses.diffusion_dpo import denoising_errors, preference_loss
from stages.finetune.losses.sqdf import soft_q_loss
from stages.finetune.losses.transition import ddim_transition
from tests import tiny


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


def test_transition_is_the_stochastic_step_of_diffusers():
    config: dict[str, Any] = tiny.SCHEDULER | {"set_alpha_to_one": False}
    theirs: Any = DDIMScheduler.from_config(config)
    theirs.set_timesteps(50)
    x, eps, z = (draws(1, 4, 8, 8, seed=n).float() for n in range(3))
    for i in (0, 20, 48, 49):
        t = theirs.timesteps[i]
        expected = theirs.step(eps, t, x, eta=1.0, variance_noise=z).prev_sample
        found = ddim_transition(tiny.schedule(), x, eps, t[None], 20)
        torch.testing.assert_close(found.sample(z), expected, rtol=1e-4, atol=1e-5)
        without = theirs.step(eps, t, x, eta=0.0).prev_sample
        torch.testing.assert_close(ddim_transition(tiny.schedule(), x, eps, t[None], 20, eta=0.0).mean, without)


def test_transitions_of_a_batch_are_those_of_its_rows():
    x, eps = draws(3, 4, 8, 8), draws(3, 4, 8, 8, seed=1)
    times = torch.tensor([981, 401, 1])
    whole = ddim_transition(tiny.schedule(), x, eps, times, 20)
    for n in range(3):
        row = ddim_transition(tiny.schedule(), x[n : n + 1], eps[n : n + 1], times[n : n + 1], 20)
        torch.testing.assert_close(whole.mean[n], row.mean[0])
        torch.testing.assert_close(whole.std[n], row.std[0])


def test_density_and_divergence_are_those_of_normal_distributions():
    on = tiny.schedule()
    times = torch.tensor([700, 300])
    x, other = draws(2, 4, 8, 8), draws(2, 4, 8, 8, seed=3)
    made = ddim_transition(on, x, draws(2, 4, 8, 8, seed=1), times, 20)
    normal = torch.distributions.Normal(made.mean, made.std.expand_as(made.mean))
    torch.testing.assert_close(made.log_density(other), normal.log_prob(other).mean((1, 2, 3)))
    second = torch.distributions.Normal(other, made.std.expand_as(other))
    expected = 2 * torch.distributions.kl_divergence(normal, second).mean((1, 2, 3))
    torch.testing.assert_close(made.divergence(other), expected)


def test_soft_q_loss_in_numpy():
    reward, divergence = draws(5).numpy(), draws(5, seed=1).abs().numpy()
    left = np.array([0, 3, 49, 1, 7])
    found = soft_q_loss(torch.from_numpy(reward), torch.from_numpy(divergence), torch.from_numpy(left), 0.9, 2.0)
    expected = np.mean(np.where(reward > 0, 2.0 * divergence - 0.9**left * reward, 0.0))
    assert float(found) == pytest.approx(expected)
    assert (reward > 0).any() and (reward <= 0).any()
