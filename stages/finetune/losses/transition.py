"""One stochastic step of the sampler as a Gaussian: its mean and deviation, log density and divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from stages.models.schedule import Schedule


@dataclass(frozen=True)
class Transition:
    """A Gaussian over the next latents: `mean` [B, C, h, w], `std` [B, 1, 1, 1]."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std noise."""
        return self.mean + self.std * noise

    def log_density(self, x: Tensor) -> Tensor:
        """Log density [B] of x [B, C, h, w], a mean over C, h, w and not a sum (ddpo-pytorch, ddim_with_logprob)."""
        squares = (x - self.mean).square() / (2 * self.std.square())
        return (-squares - self.std.log() - math.log(math.sqrt(2 * math.pi))).mean((1, 2, 3))

    def divergence(self, other: Tensor) -> Tensor:
        """Mean over C, h, w of (other mean - mean)^2 / std^2, [B]: twice the KL divergence a number (SQDF's code)."""
        return ((other - self.mean).square() / self.std.square()).mean((1, 2, 3))

    def kl(self, other: Transition) -> Tensor:
        """KL divergence [B] from `other`, a Gaussian of the same deviation, in nats a number: of an image it is C h w
        times this.

        The one normalisation of every method here. SQDF's code has twice this (`divergence`), DDPO+KL's code this.
        """
        return self.divergence(other.mean) / 2


def ddim_transition(schedule: Schedule, x: Tensor, eps: Tensor, t: Tensor, step: int, eta: float = 1.0) -> Transition:
    """The step from timesteps t [B] to max(t - step, 0) (Song et al. 2021, equations 12 and 16).

    The step never ends at clean latents, where its deviation would be 0: past timestep 0 it ends there.
    """
    return between(x, eps, schedule.alphas_cumprod[t], schedule.alphas_cumprod[(t - step).clamp(min=0)], eta)


def between(x: Tensor, eps: Tensor, alpha: Tensor, prev: Tensor, eta: float = 1.0) -> Transition:
    """The same step between cumulative products `alpha` and `prev`, each [B]."""
    alpha, prev = alpha.reshape(-1, 1, 1, 1), prev.reshape(-1, 1, 1, 1)
    variance = eta**2 * (1 - prev) / (1 - alpha) * (1 - alpha / prev)
    clean = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    return Transition(prev.sqrt() * clean + (1 - prev - variance).sqrt() * eps, variance.sqrt())
