"""Diffusion processes: what noise schedules and flow matching have in common.

A process mixes clean latents x_0 with standard normal noise n, from x_0 alone to (almost) n alone. A *prediction* is a
network's output in the form in which everything else takes it: the noise n for noise schedules, whether the network
predicts n or v, and the velocity n - x_0 for flow matching. Predictions are linear in the network's output, so guidance
and sampling strategies mix them linearly.

A process speaks of training timesteps t, a `Grid` of the indices i of its sampling steps: 0 is the noisiest, a step
leads from index i to i + 1, and the step from the last index, T - 1, ends at clean latents. Who uses what:

- A *loss* on real latents: `x = process.noised(x0, noise, t)` at `t = process.random_timesteps(rng, B)`, then
  `(denoiser.prediction(x, t, text) - process.target(x0, noise)).square()`. On the sampler's grid: `grid.noised(x0,
  noise, i)` and `grid.timesteps[i]`.
- A *sampler*: `grid.ancestral(x, prediction, i)` is the Gaussian of the sampler `ddpm`, `grid.ode(x, prediction, i)`
  the next latents of the sampler `ddim`; `grid.x0(x, prediction, i)` is the clean latents predicted at index i, and
  what the last step makes (`stages.models.sampler`).
- A *trajectory method* (policy gradient, KL penalty): `step = grid.transition(x, prediction, i, eta)` is the Gaussian
  of a stochastic step for an index i or indices [B], one of each row. `step.sample(noise)`, `step.log_prob(after)` and
  `step.kl(base_step)` are differentiable by the prediction. Unlike those of `ancestral`, the last transition has noise
  too, so that all T of them have densities; what it ends at is decoded as it is. Call `grid.require_transitions()`
  first: some grids have no such last step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from stages.errors import InputError
from stages.kinds import shown


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of independent components: `mean` [B, C, h, w] and `std`, which broadcasts against it."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std noise, for standard normal noise [B, C, h, w]."""
        return self.mean + self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density [B] of x [B, C, h, w], in nats per component: the mean over C, h, w and not the sum.

        As in ddpo-pytorch (ddim_with_logprob.py) and Flow-GRPO (sd3_sde_with_logprob.py). `std` must be above 0.
        """
        squares = (x - self.mean).square() / (2 * self.std.square())
        return (-squares - self.std.log() - math.log(math.sqrt(2 * math.pi))).mean((1, 2, 3))

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) [B], in nats per component: of the whole latents it is C h w times this.

        Both `std` must be above 0. SQDF's code has twice this for equal `std`, DDPO+KL's code this.
        """
        ratio = self.std / other.std
        spread = (ratio.square() - 1) / 2 - ratio.log()  # exactly 0 for equal std
        distance = ((other.mean - self.mean).square() / other.std.square()).mean((1, 2, 3)) / 2
        return distance + spread.flatten()


class DiffusionProcess(ABC):
    """How clean latents become noise, over training timesteps t; `t` is a scalar or [B] wherever it is taken.

    All coefficients are tensors on the model's device, so that a sampling loop never waits for the host.
    """

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the coefficients are."""

    @abstractmethod
    def grid(self, steps: int) -> Grid:
        """The sampler's grid of `steps` steps. Raises InputError for a number of steps that the process lacks."""

    @abstractmethod
    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, h, w] of clean latents and noise."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The prediction that is right for clean latents and noise: what the diffusion loss compares with."""

    @abstractmethod
    def prediction(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The prediction that a network's output at x_t stands for."""

    @abstractmethod
    def x0(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean latents that a prediction at x_t implies."""

    @abstractmethod
    def training_timesteps(self) -> Tensor:
        """Every training timestep, from the cleanest to the noisiest, as the network takes them."""

    @abstractmethod
    def ode(self, x: Tensor, prediction: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """Where a deterministic step from timestep t to timestep `to` leads."""

    @abstractmethod
    def share(self, t: Tensor, part: int, parts: int) -> Tensor:
        """The timestep at `part` of `parts` of the way from 0 to t."""

    @abstractmethod
    def time(self, t: Tensor) -> Tensor:
        """Timesteps t as shares of all, in [0, 1]; of flow matching the noise level."""

    @abstractmethod
    def random_timesteps(self, rng: Random, count: int) -> Tensor:
        """`count` training timesteps [count], drawn uniformly and independently, as the network takes them."""


@dataclass(frozen=True)
class Grid(ABC):
    """T sampling steps of a process; `timesteps` [T] are what the network takes at each index, noisiest first.

    Where it is taken, an index `i` is an int, or int64 [B], one of each row.
    """

    process: DiffusionProcess
    timesteps: Tensor

    @abstractmethod
    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """Latents of index i."""

    @abstractmethod
    def x0(self, x: Tensor, prediction: Tensor, i: int | Tensor) -> Tensor:
        """The clean latents that a prediction at index i implies."""

    @abstractmethod
    def ode(self, x: Tensor, prediction: Tensor, i: int | Tensor, to: int | Tensor | None = None) -> Tensor:
        """Where a deterministic step from index i leads: to index `to`, or to i + 1 (clean latents after the last)."""

    @abstractmethod
    def ancestral(self, x: Tensor, prediction: Tensor, i: int) -> Gaussian:
        """The step from index i to i + 1 as a draw from q(x_next | x, x_0), x_0 being the predicted clean latents.

        The last one has std 0 or nearly so and leads to x_0.
        """

    @abstractmethod
    def transition(self, x: Tensor, prediction: Tensor, i: int | Tensor, eta: float = 1.0) -> Gaussian:
        """The stochastic step from index i to i + 1 with `eta` in [0, 1] of its noise; with eta 0 its mean is the ODE's
        step and std is 0. The last one has noise too.
        """

    @abstractmethod
    def require_transitions(self) -> None:
        """Raise InputError where the grid has no last transition with noise."""

    def __len__(self) -> int:
        return len(self.timesteps)


def at(table: Tensor, i: int | Tensor, like: Tensor) -> Tensor:
    """Entries of a table [T] at `i`, int or [] or [B], in a shape that broadcasts against `like` [B, ...]."""
    found = table[i]
    return found.reshape(-1, *[1] * (like.ndim - 1)) if found.ndim else found


def number(config: Mapping[str, Any], key: str, default: float, least: float = 0.0) -> float:
    """A number of a scheduler configuration; raises InputError for another kind of value, or one below `least`."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < math.inf:
        raise InputError(f"scheduler config: {key} is {shown(value)}, expected a number from {least:g}")
    return value
