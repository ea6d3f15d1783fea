"""Flow matching (rectified flow): the straight path x_s = (1 - s) x_0 + s n, for networks that predict n - x_0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.process import DiffusionProcess, Gaussian, Grid, at, number

NOT_KNOWN = ("use_dynamic_shifting", "invert_sigmas", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas",
             "use_beta_sigmas")  # fmt: skip


@dataclass(frozen=True)
class FlowMatching(DiffusionProcess):
    """Noise levels s in (0, 1], shifted towards noise: s' = shift s / (1 + (shift - 1) s) (Esser et al. 2024, eq. 23).

    A timestep is `train_steps` times s. A prediction is the velocity n - x_0: as linear in the network's output as the
    noise is, but defined at s = 1 too, where the noise alone says nothing of x_0.
    """

    shift: float
    train_steps: int
    where: torch.device

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: torch.device) -> FlowMatching:
        """From a configuration of diffusers' FlowMatchEulerDiscreteScheduler.

        Raises InputError for a key that is not known.
        """
        if other := [key for key in NOT_KNOWN if config.get(key)]:
            raise InputError(f"scheduler config: {other[0]} {config[other[0]]!r} of flow matching is not known here")
        shift = number(config, "shift", 1.0)
        if shift <= 0:
            raise InputError(f"scheduler config: shift {shift:g}, expected a number over 0")
        return cls(shift, int(number(config, "num_train_timesteps", 1000, least=1)), device)

    @property
    def device(self) -> torch.device:
        """Where the grids are."""
        return self.where

    def grid(self, steps: int) -> FlowGrid:
        """The grid of `steps` levels from s = 1 down; the ends are shifted once more than the steps between them, as
        FlowMatchEulerDiscreteScheduler does it.
        """
        if not 1 <= steps <= self.train_steps:
            raise InputError(f"sampling steps: {steps}, expected 1 to {self.train_steps}")
        last = float(self._shifted(np.float32(1 / self.train_steps)))
        levels = self._shifted(np.linspace(self.train_steps, last * self.train_steps, steps) / self.train_steps)
        return FlowGrid.of(self, torch.from_numpy(levels).to(torch.float32).to(self.device))

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(1 - s) x_0 + s n."""
        return _noised(clean, noise, self._level(t, clean))

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The velocity n - x_0."""
        return noise - clean

    def prediction(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The output itself, a velocity."""
        return output

    def x0(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x - s v."""
        return _x0(x, prediction, self._level(t, x))

    def training_timesteps(self) -> Tensor:
        """float32, the levels 1 / train_steps, ..., 1, shifted, times train_steps."""
        return self.train_steps * self._shifted(
            torch.arange(1, self.train_steps + 1, device=self.device) / self.train_steps
        )

    def ode(self, x: Tensor, prediction: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """An Euler step along the velocity."""
        return x + (self._level(to, x) - self._level(t, x)) * prediction

    def share(self, t: Tensor, part: int, parts: int) -> Tensor:
        """t part / parts."""
        return t * part / parts

    def time(self, t: Tensor) -> Tensor:
        """The noise level s."""
        return t / self.train_steps

    def random_timesteps(self, rng: Random, count: int) -> Tensor:
        """float32 [count], uniform on the `train_steps` levels 1 / train_steps, ..., 1, which are then shifted."""
        levels = [self._shifted((rng.randrange(self.train_steps) + 1) / self.train_steps) for _ in range(count)]
        return self.train_steps * torch.tensor(levels, dtype=torch.float32, device=self.device)

    def _level(self, t: Tensor, like: Tensor) -> Tensor:
        level = (t / self.train_steps).to(like.dtype)
        return level.reshape(-1, *[1] * (like.ndim - 1)) if level.ndim else level

    def _shifted(self, level: Any) -> Any:
        return self.shift * level / (1 + (self.shift - 1) * level)


@dataclass(frozen=True)
class FlowGrid(Grid):
    """Noise levels `sigma` [T] and the next ones, `following` [T], 0 after the last.

    `diffusion` [T] is sigma_t of the SDE of Flow-GRPO for a = 1: sqrt(s / (1 - s)).
    """

    process: FlowMatching
    sigma: Tensor
    following: Tensor
    diffusion: Tensor

    @classmethod
    def of(cls, process: FlowMatching, sigma: Tensor) -> FlowGrid:
        """The grid on levels `sigma` [T], noisiest first.

        At s = 1, where sigma_t is infinite, 1 - s is that of the next level, as in Flow-GRPO's code
        (sd3_sde_with_logprob.py).
        """
        following = torch.cat([sigma[1:], sigma.new_zeros(1)])
        diffusion = (sigma / (1 - torch.where(sigma == 1, following, sigma))).sqrt()
        return cls(process, sigma * process.train_steps, sigma, following, diffusion)

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """`clean` [B, ...] noised to index i."""
        return _noised(clean, noise, self.sigma[i])

    def x0(self, x: Tensor, prediction: Tensor, i: int | Tensor) -> Tensor:
        """x - s v."""
        return _x0(x, prediction, at(self.sigma, i, x))

    def ode(self, x: Tensor, prediction: Tensor, i: int | Tensor, to: int | Tensor | None = None) -> Tensor:
        """One Euler step along the velocity: x + (s_to - s_i) v."""
        after = at(self.following, i, x) if to is None else at(self.sigma, to, x)
        return x + (after - at(self.sigma, i, x)) * prediction

    def ancestral(self, x: Tensor, prediction: Tensor, i: int) -> Gaussian:
        """q(x_next | x, x_0) of a Gaussian path with signal 1 - s and noise s.

        Kingma et al. 2021 (Variational Diffusion Models), appendix A.2, with alpha = 1 - s and sigma = s.
        """
        s, after = self.sigma[i], self.following[i]
        ratio = (1 - s) / (1 - after)
        added = (s**2 - ratio**2 * after**2).clamp(min=0)
        mean = ratio * after**2 / s**2 * x + (1 - after) * added / s**2 * self.x0(x, prediction, i)
        return Gaussian(mean, added.sqrt() * after / s)

    def transition(self, x: Tensor, prediction: Tensor, i: int | Tensor, eta: float = 1.0) -> Gaussian:
        """An Euler-Maruyama step of the SDE of Flow-GRPO with a = eta (Liu et al. 2025, arXiv 2505.05470, equation 9).

        With ds = s_next - s < 0 and sigma_t = eta sqrt(s / (1 - s)):

            mean = x + (v + sigma_t^2 / (2 s) (x + (1 - s) v)) ds,  std = sigma_t sqrt(-ds)

        x + (1 - s) v is the predicted noise. The last one, to s = 0, has noise too, as in the released code.
        """
        s, step = at(self.sigma, i, x), at(self.following - self.sigma, i, x)
        diffusion = eta * at(self.diffusion, i, x)
        drift = prediction + diffusion.square() / (2 * s) * (x + (1 - s) * prediction)
        return Gaussian(x + drift * step, diffusion * (-step).sqrt())

    def require_transitions(self) -> None:
        """Every grid has them."""


def _noised(clean: Tensor, noise: Tensor, s: Tensor) -> Tensor:
    return (1 - s) * clean + s * noise


def _x0(x: Tensor, velocity: Tensor, s: Tensor) -> Tensor:
    return x - s * velocity
