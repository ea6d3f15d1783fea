"""Diffusion-DPO (Wallace et al. 2024, arXiv 2311.12908, equation 14) on errors of preferred and other images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Preference:
    """`inside` [B], the argument of the log sigmoid; `loss`, its mean negative; `accuracy`, the share above 0."""

    inside: Tensor
    loss: Tensor
    accuracy: Tensor


def denoising_errors(eps: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error [N] of noise predictions [N, C, h, w], over C, h, w."""
    return (eps - noise).square().mean((1, 2, 3))


def preference_loss(policy: Tensor, reference: Tensor, beta: float) -> Preference:
    """From errors [2 B] of policy and reference, preferred images first, the other of each pair B places later.

    inside = -beta/2 ((policy_w - policy_l) - (reference_w - reference_l)); `beta` holds the number of timesteps.
    """
    (policy_w, policy_l), (reference_w, reference_l) = policy.chunk(2), reference.chunk(2)
    inside = -0.5 * beta * ((policy_w - policy_l) - (reference_w - reference_l))
    return Preference(inside, -logsigmoid(inside).mean(), (inside > 0).float().mean())
