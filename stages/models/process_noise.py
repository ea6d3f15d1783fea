"""Noise schedules: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) n, for networks that predict n or v (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.process import DiffusionProcess, Gaussian, Grid, at, number

Spacing = Literal["leading", "trailing", "linspace"]
OLD_CLASSES = ("DDPM", "DDIM", "PNDM")
"""Names of schedulers that may leave out every key."""


@dataclass(frozen=True)
class NoiseSchedule(DiffusionProcess):
    """A discrete schedule: `alphas_cumprod` [train steps] float32, and how a grid of timesteps is laid.

    A prediction is the noise, also of a network that predicts v.
    """

    alphas_cumprod: Tensor
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    spacing: Spacing = "leading"
    offset: int = 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: torch.device) -> NoiseSchedule:
        """From a diffusers scheduler configuration (`scheduler/scheduler_config.json`).

        Keys that an old configuration lacks take the library's defaults (epsilon, leading). Raises InputError for a
        value that is not known, or not of the kind or size that a noise schedule has.
        """
        name = str(config.get("_class_name", OLD_CLASSES[0]))
        if "beta_schedule" not in config and not name.startswith(OLD_CLASSES):
            raise InputError(f"scheduler config: {name} without beta_schedule is not known; expected a noise schedule")
        count = int(number(config, "num_train_timesteps", 1000, least=1))
        start, end = number(config, "beta_start", 0.0001), number(config, "beta_end", 0.02)
        if not 0 < start <= end < 1:
            raise InputError(
                f"scheduler config: beta_start {start:g} and beta_end {end:g}; expected 0 < start <= end < 1"
            )
        kind = config.get("beta_schedule", "linear")
        if kind == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
        elif kind == "linear":
            betas = torch.linspace(start, end, count, dtype=torch.float32)
        else:
            raise InputError(f"scheduler config: beta_schedule {kind!r} is not known; known: linear, scaled_linear")
        if odd := [key for key in ("trained_betas", "rescale_betas_zero_snr") if config.get(key)]:
            raise InputError(f"scheduler config: {odd[0]} is not known here; known: beta_schedule as it is")
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise InputError(f"scheduler config: prediction_type {prediction!r}; known: epsilon, v_prediction")
        spacing = config.get("timestep_spacing", "leading")
        if spacing not in get_args(Spacing):
            known = ", ".join(get_args(Spacing))
            raise InputError(f"scheduler config: timestep_spacing {spacing!r} is not known; known: {known}")
        return cls(
            alphas_cumprod=torch.cumprod(1.0 - betas, dim=0).to(device),
            prediction_type=prediction,
            spacing=spacing,
            offset=int(number(config, "steps_offset", 0)),
        )

    @property
    def device(self) -> torch.device:
        """Where the coefficients are."""
        return self.alphas_cumprod.device

    def grid(self, steps: int) -> NoiseGrid:
        """The grid of `steps` timesteps, noisiest first (976, 951, ..., 1 for 40 leading steps with offset 1)."""
        train = len(self.alphas_cumprod)
        if not 1 <= steps <= train:
            raise InputError(f"sampling steps: {steps}, expected 1 to {train}")
        if self.spacing == "leading":
            times = torch.arange(steps - 1, -1, -1) * (train // steps) + self.offset
        elif self.spacing == "trailing":
            times = torch.arange(train, 0, -train / steps).round().long()[:steps] - 1
        else:
            # numpy's rounding, as diffusers does it: halves fall differently in torch.linspace
            times = torch.from_numpy(np.linspace(0, train - 1, steps).round()[::-1].astype(np.int64))
        return NoiseGrid.of(self, times.clamp(0, train - 1).to(self.device))

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """sqrt(abar_t) x_0 + sqrt(1 - abar_t) n."""
        return _noised(clean, noise, at(self.alphas_cumprod, t, clean))

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The noise."""
        return noise

    def prediction(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise that the output stands for: itself, or sqrt(abar) v + sqrt(1 - abar) x (Salimans and Ho 2022)."""
        if self.prediction_type == "epsilon":
            return output
        alpha = at(self.alphas_cumprod, t, x)
        return alpha.sqrt() * output + (1 - alpha).sqrt() * x

    def x0(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """(x - sqrt(1 - abar_t) n) / sqrt(abar_t)."""
        return _x0(x, prediction, at(self.alphas_cumprod, t, x))

    def training_timesteps(self) -> Tensor:
        """0 to train steps - 1."""
        return torch.arange(len(self.alphas_cumprod), device=self.device)

    def ode(self, x: Tensor, prediction: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """A DDIM step to abar at `to`."""
        return self.noised(self.x0(x, prediction, t), prediction, to)

    def share(self, t: Tensor, part: int, parts: int) -> Tensor:
        """floor(t part / parts)."""
        return t * part // parts

    def time(self, t: Tensor) -> Tensor:
        """t / train steps."""
        return t / len(self.alphas_cumprod)

    def random_timesteps(self, rng: Random, count: int) -> Tensor:
        """int64 [count], uniform on 0 to train steps - 1."""
        return torch.tensor([rng.randrange(len(self.alphas_cumprod)) for _ in range(count)], device=self.device)


@dataclass(frozen=True)
class NoiseGrid(Grid):
    """`steps` timesteps with the coefficients of every step, each a tensor [T].

    `alpha` is abar at each index and `alpha_prev` at the next one, 1 after the last; `alpha_end` is `alpha_prev` but
    for the last, which is abar at timestep 0. `variance` is that of the ancestral step (`fixed_small` in diffusers).
    """

    process: NoiseSchedule
    alpha: Tensor
    alpha_prev: Tensor
    alpha_end: Tensor
    variance: Tensor

    @classmethod
    def of(cls, process: NoiseSchedule, timesteps: Tensor) -> NoiseGrid:
        """The grid on `timesteps` [T], noisiest first."""
        alpha = process.alphas_cumprod[timesteps]
        alpha_prev = torch.cat([alpha[1:], alpha.new_ones(1)])
        alpha_end = torch.cat([alpha[1:], process.alphas_cumprod[:1]])
        beta = 1 - alpha / alpha_prev
        variance = ((1 - alpha_prev) / (1 - alpha) * beta).clamp(min=1e-20)
        return cls(process, timesteps, alpha, alpha_prev, alpha_end, variance)

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """`clean` [B, ...] noised to index i."""
        return self.process.noised(clean, noise, self.timesteps[i])

    def x0(self, x: Tensor, prediction: Tensor, i: int | Tensor) -> Tensor:
        """(x - sqrt(1 - abar_i) n) / sqrt(abar_i)."""
        return _x0(x, prediction, at(self.alpha, i, x))

    def ode(self, x: Tensor, prediction: Tensor, i: int | Tensor, to: int | Tensor | None = None) -> Tensor:
        """A DDIM step, sqrt(abar_to) x_0 + sqrt(1 - abar_to) n (Song et al. 2021, equation 12 with sigma 0)."""
        after = at(self.alpha_prev, i, x) if to is None else at(self.alpha, to, x)
        return _noised(self.x0(x, prediction, i), prediction, after)

    def ancestral(self, x: Tensor, prediction: Tensor, i: int) -> Gaussian:
        """The posterior q(x_next | x, x_0) with variance `fixed_small` (Ho et al. 2020, equation 7)."""
        alpha, prev = self.alpha[i], self.alpha_prev[i]
        beta, clean = 1 - alpha / prev, self.x0(x, prediction, i)
        mean = prev.sqrt() * beta / (1 - alpha) * clean + (1 - beta).sqrt() * (1 - prev) / (1 - alpha) * x
        return Gaussian(mean, self.variance[i].sqrt())

    def transition(self, x: Tensor, prediction: Tensor, i: int | Tensor, eta: float = 1.0) -> Gaussian:
        """A DDIM step with noise (Song et al. 2021, equations 12 and 16); eta 1 is `ancestral`.

        The last one ends at timestep 0 and not at clean latents, where it would have no noise and so no density, as in
        the released code of DDPO and SQDF.
        """
        alpha, after = at(self.alpha, i, x), at(self.alpha_end, i, x)
        variance = eta**2 * (1 - after) / (1 - alpha) * (1 - alpha / after)
        clean = _x0(x, prediction, alpha)
        return Gaussian(after.sqrt() * clean + (1 - after - variance).sqrt() * prediction, variance.sqrt())

    def require_transitions(self) -> None:
        """Raise InputError where the grid ends at timestep 0: no step leaves it."""
        if not self.alpha[-1] < self.alpha_end[-1]:
            raise InputError(
                "a trajectory method needs a last sampling step with noise, but the scheduler's grid ends at "
                "timestep 0; expected steps_offset 1 in its configuration"
            )


def require_noise_schedule(grid: Grid, who: str) -> NoiseGrid:
    """The grid, for code that is defined on cumulative products; raises InputError where it has none."""
    if not isinstance(grid, NoiseGrid):
        raise InputError(f"{who} is defined on a noise schedule, but the base is a flow-matching model")
    return grid


def _noised(clean: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def _x0(x: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
