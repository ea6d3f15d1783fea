"""The noise schedule of a diffusion model, and the steps of a sampler on a grid of it.

Index i runs from noise (0) to image (T - 1); `prev` of i is i + 1; after the last index the cumulative product is 1.
All coefficients are tensors on the model's device, so that a sampling loop never waits for the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stages.errors import InputError

Prediction = Literal["epsilon", "v_prediction", "flow"]


@dataclass(frozen=True)
class Schedule:
    """The forward process: `alphas_cumprod` [train steps] float32, and how a grid of timesteps is laid."""

    alphas_cumprod: Tensor
    prediction: Prediction = "epsilon"
    spacing: Literal["leading", "trailing", "linspace"] = "leading"
    offset: int = 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: torch.device) -> Schedule:
        """From a diffusers scheduler configuration (`scheduler/scheduler_config.json`).

        Keys that an old configuration lacks take the library's defaults (epsilon, leading). Raises InputError for a
        beta schedule or a prediction type that is not known.
        """
        count = int(config.get("num_train_timesteps", 1000))
        start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
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
        return cls(
            alphas_cumprod=torch.cumprod(1.0 - betas, dim=0).to(device),
            prediction=prediction,
            spacing=config.get("timestep_spacing", "leading"),
            offset=int(config.get("steps_offset", 0)),
        )

    @property
    def device(self) -> torch.device:
        """Where the coefficients are."""
        return self.alphas_cumprod.device

    def grid(self, steps: int) -> Grid:
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
        return Grid.of(self, times.clamp(0, train - 1).to(self.alphas_cumprod.device))

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) n; `t` is a scalar or [B]."""
        alpha = self._at(t, clean)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What the prediction is compared with in the diffusion loss: the noise."""
        return noise

    def epsilon(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The network's output as a noise prediction: itself, or sqrt(abar) v + sqrt(1 - abar) x for v prediction."""
        if self.prediction == "epsilon":
            return output
        alpha = self._at(t, x)
        return alpha.sqrt() * output + (1 - alpha).sqrt() * x

    def _at(self, t: Tensor, like: Tensor) -> Tensor:
        alpha = self.alphas_cumprod[t]
        return alpha.reshape(-1, *[1] * (like.ndim - 1)) if alpha.ndim else alpha


@dataclass(frozen=True)
class Grid:
    """`steps` timesteps with everything a step needs, each a tensor [steps]."""

    schedule: Schedule
    timesteps: Tensor
    alpha: Tensor
    alpha_prev: Tensor
    variance: Tensor

    @classmethod
    def of(cls, schedule: Schedule, timesteps: Tensor) -> Grid:
        """The grid on `timesteps` [T], noisiest first."""
        alpha = schedule.alphas_cumprod[timesteps]
        alpha_prev = torch.cat([alpha[1:], alpha.new_ones(1)])
        beta = 1 - alpha / alpha_prev
        variance = ((1 - alpha_prev) / (1 - alpha) * beta).clamp(min=1e-20)
        return cls(schedule, timesteps, alpha, alpha_prev, variance)

    def __len__(self) -> int:
        return len(self.timesteps)

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """`clean` [B, ...] noised to index i."""
        return self.schedule.noised(clean, noise, self.timesteps[i])

    def x0(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        """The clean latents that `eps` implies at index i: (x - sqrt(1 - abar) eps) / sqrt(abar)."""
        return (x - (1 - self.alpha[i]).sqrt() * eps) / self.alpha[i].sqrt()

    def ddpm(self, x: Tensor, eps: Tensor, i: int, noise: Tensor) -> Tensor:
        """One ancestral step from index i to i + 1 with variance `fixed_small` (Ho et al. 2020, equation 7)."""
        alpha, prev = self.alpha[i], self.alpha_prev[i]
        beta = 1 - alpha / prev
        mean = prev.sqrt() * beta / (1 - alpha) * self.x0(x, eps, i) + (1 - beta).sqrt() * (1 - prev) / (1 - alpha) * x
        return mean + self.variance[i].sqrt() * noise

    def ddim(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        """One deterministic step from index i to i + 1 (Song et al. 2021, equation 12 with sigma 0)."""
        prev = self.alpha_prev[i]
        return prev.sqrt() * self.x0(x, eps, i) + (1 - prev).sqrt() * eps
