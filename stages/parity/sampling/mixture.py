"""A mixture of Gaussians in which every quantity of a sampler is known: the noise that is predicted, the distribution
tilted by a linear reward, and the soft value of a state. In double precision.

For latents x_0 ~ sum_k w_k N(mu_k, s^2 1) and x = sqrt(a) x_0 + sqrt(1 - a) n, x is a mixture with means sqrt(a) mu_k
and variance a s^2 + 1 - a; for a reward b x_0, p exp(lambda r) / Z is a mixture with means mu_k + lambda s^2 b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import Noise
from stages.models.process_noise import NoiseGrid, NoiseSchedule
from stages.sample.context import Context
from stages.sample.meter import Meter
from stages.sample.networks import Networks, Rows
from stages.sample.texts import Texts


@dataclass(frozen=True)
class Mixture:
    """Weights [K], means [K, D] and the deviation of all; the reward of x_0 is `direction` [D] x_0."""

    weights: Tensor
    means: Tensor
    deviation: float
    direction: Tensor

    def variance(self, alpha: Tensor) -> Tensor:
        """The variance of a component at abar."""
        return alpha * self.deviation**2 + 1 - alpha

    def shares(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Posterior [B, K] of the components for x [B, D]."""
        away = (x[:, None] - alpha.sqrt() * self.means).square().sum(2)
        return (self.weights.log() - away / (2 * self.variance(alpha))).softmax(1)

    def epsilon(self, x: Tensor, alpha: Tensor) -> Tensor:
        """E[n | x], [B, D]: -sqrt(1 - a) times the score."""
        means = (self.shares(x, alpha)[..., None] * (x[:, None] - alpha.sqrt() * self.means)).sum(1)
        return (1 - alpha).sqrt() * means / self.variance(alpha)

    def reward(self, x: Tensor) -> Tensor:
        """The reward of clean x [B, D]."""
        return x @ self.direction

    def soft_value(self, x: Tensor, alpha: Tensor, strength: float) -> Tensor:
        """(1 / lambda) log E[exp(lambda r(x_0)) | x], [B]."""
        gain = alpha.sqrt() * self.deviation**2 / self.variance(alpha)
        centres = self.means + gain * (x[:, None] - alpha.sqrt() * self.means)
        spread = self.deviation**2 * (1 - alpha) / self.variance(alpha)
        rise = strength * centres @ self.direction + strength**2 * spread * self.direction.square().sum() / 2
        return (self.shares(x, alpha).log() + rise).logsumexp(1) / strength

    def tilted(self, strength: float) -> tuple[Mixture, float]:
        """p exp(lambda r) / Z, and log Z."""
        rise = strength * self.means @ self.direction
        rise = rise + strength**2 * self.deviation**2 * self.direction.square().sum() / 2
        logs = self.weights.log() + rise
        means = self.means + strength * self.deviation**2 * self.direction
        return Mixture(logs.softmax(0), means, self.deviation, self.direction), float(logs.logsumexp(0))

    def context(self, grid: NoiseGrid, noise: Noise, count: int) -> Context:
        """`count` images of the mixture: latents [count, D, 1, 1] that are decoded as they are."""
        nothing = Conditioning(torch.zeros(count, 1, 1, dtype=torch.float64))
        network = _Exact(self, grid.process)
        networks = Networks(grid, Texts.of(nothing), nothing[[0]], network, None, Rows(range(count), Meter(count)))
        rewards = {"reward": _Linear(self)}
        return Context(networks, noise, [""] * count, [0] * count, "ddpm", lambda x: x, rewards)


class _Exact(Denoiser):
    """The exact prediction in place of a network."""

    def __init__(self, mixture: Mixture, process: NoiseSchedule) -> None:
        super().__init__(torch.nn.Identity(), process)
        self.mixture = mixture

    def prediction(
        self, x: Tensor, t: Tensor, text: Conditioning | Tensor, empty: Conditioning | Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """E[n | x] for latents [B, D, 1, 1]."""
        assert isinstance(self.process, NoiseSchedule)
        self.evaluations += len(x)
        found = self.mixture.epsilon(x.flatten(1), self.process.alphas_cumprod[t]).view_as(x)
        self.backward += len(x) if found.requires_grad else 0
        return found


@dataclass
class _Linear:
    """The mixture's reward."""

    mixture: Mixture
    name: str = "reward"
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.mixture.reward(images.flatten(1))


def grid_of(alphas: Tensor) -> NoiseGrid:
    """The grid whose index i has abar alphas[i]."""
    return NoiseGrid.of(NoiseSchedule(alphas), torch.arange(len(alphas)))
