"""Flow matching (rectified flow): the straight path x_s = (1 - s) x_0 + s n, and steps along it.

The network predicts the velocity v = n - x_0. The methods of `Schedule` and `Grid` keep their meaning; where they speak
of a noise prediction `eps`, here it is v: as linear in the network's output, but defined at s = 1 too, where the noise
alone says nothing of x_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.schedule import Grid, Schedule

NOT_KNOWN = ("use_dynamic_shifting", "invert_sigmas", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas",
             "use_beta_sigmas")  # fmt: skip


def make_schedule(config: Mapping[str, Any], device: torch.device) -> Schedule:
    """The schedule of a diffusers scheduler configuration: of flow matching where its class says so, else diffusion.

    Raises InputError for a configuration that is not known.
    """
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        return FlowSchedule.from_config(config, device)
    return Schedule.from_config(config, device)


class FlowSchedule(Schedule):
    """Noise levels s in (0, 1], shifted towards noise: s' = shift s / (1 + (shift - 1) s) (Esser et al. 2024, eq. 23).

    A timestep is `train_steps` times s.
    """

    def __init__(self, shift: float, train_steps: int, device: torch.device) -> None:
        for name, value in {"shift": shift, "train_steps": train_steps, "_device": device}.items():
            object.__setattr__(self, name, value)

    shift: float
    train_steps: int
    _device: torch.device
    prediction = "flow"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: torch.device) -> FlowSchedule:
        """From a configuration of diffusers' FlowMatchEulerDiscreteScheduler."""
        if other := [key for key in NOT_KNOWN if config.get(key)]:
            raise InputError(f"scheduler config: {other[0]} {config[other[0]]!r} of flow matching is not known here")
        return cls(float(config.get("shift", 1.0)), int(config.get("num_train_timesteps", 1000)), device)

    @property
    def device(self) -> torch.device:
        """Where the grids are."""
        return self._device

    def grid(self, steps: int) -> FlowGrid:
        """The grid of `steps` levels from s = 1 down; the ends are shifted once more than the steps between them, as
        FlowMatchEulerDiscreteScheduler does it.
        """
        if not 1 <= steps <= self.train_steps:
            raise InputError(f"sampling steps: {steps}, expected 1 to {self.train_steps}")
        last = float(self._shifted(np.float32(1 / self.train_steps)))
        levels = self._shifted(np.linspace(self.train_steps, last * self.train_steps, steps) / self.train_steps)
        return FlowGrid(self, torch.from_numpy(levels).to(torch.float32).to(self._device))

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_s = (1 - s) x_0 + s n at timestep t = train_steps s; `t` is a scalar or [B]."""
        level = (t / self.train_steps).to(clean.dtype)
        level = level.reshape(-1, *[1] * (clean.ndim - 1)) if level.ndim else level
        return (1 - level) * clean + level * noise

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The velocity n - x_0."""
        return noise - clean

    def epsilon(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The output itself, a velocity."""
        return output

    def _shifted(self, level: Any) -> Any:
        return self.shift * level / (1 + (self.shift - 1) * level)

    def __getattr__(self, name: str) -> Any:
        if name == "alphas_cumprod":
            raise InputError("the base is a flow-matching model, which has no cumulative products of a noise schedule")
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"FlowSchedule(shift={self.shift})"


class FlowGrid(Grid):
    """Noise levels `sigma` [T] and the next ones, `following` [T], 0 after the last."""

    def __init__(self, schedule: FlowSchedule, sigma: Tensor) -> None:
        following = torch.cat([sigma[1:], sigma.new_zeros(1)])
        times = sigma * schedule.train_steps
        own = {"schedule": schedule, "timesteps": times, "sigma": sigma, "following": following}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    sigma: Tensor
    following: Tensor

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """`clean` [B, ...] noised to index i."""
        return (1 - self.sigma[i]) * clean + self.sigma[i] * noise

    def x0(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        """The clean latents that the velocity `eps` implies at index i: x - s v."""
        return x - self.sigma[i] * eps

    def ddpm(self, x: Tensor, eps: Tensor, i: int, noise: Tensor) -> Tensor:
        """One ancestral step: a draw from q(x_next | x, x_0) of a Gaussian path with signal 1 - s and noise s.

        Kingma et al. 2021 (Variational Diffusion Models), appendix A.2, with alpha = 1 - s and sigma = s.
        """
        s, after = self.sigma[i], self.following[i]
        ratio = (1 - s) / (1 - after)
        added = (s**2 - ratio**2 * after**2).clamp(min=0)
        mean = ratio * after**2 / s**2 * x + (1 - after) * added / s**2 * self.x0(x, eps, i)
        return mean + (added.sqrt() * after / s) * noise

    def ddim(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        """One Euler step along the velocity: x + (s_next - s) v."""
        return x + (self.following[i] - self.sigma[i]) * eps

    def __getattr__(self, name: str) -> Any:
        if name in ("alpha", "alpha_prev", "variance"):
            raise InputError("the base is a flow-matching model, whose grid has no cumulative products")
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"FlowGrid({len(self)} steps of {self.schedule})"
