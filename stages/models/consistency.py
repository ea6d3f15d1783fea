"""A consistency model: one evaluation from any noise level to the clean latents (Song et al. 2023; Luo et al. 2023).

f(x, t) = c_skip(t) x + c_out(t) x0(x, t), the boundary factors of latent consistency models: c_skip falls from
1 at t = 0 within a few timesteps, so that f(x, 0) = x.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser

SIGMA_DATA = 0.5
SCALING = 10.0  # of timesteps in the boundary factors


@dataclass(frozen=True)
class Student:
    """A denoiser read as a consistency model. It takes no guidance: that of its teacher is in its weights."""

    denoiser: Denoiser

    def __call__(self, x: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        """Clean latents [B, C, h, w] from latents x [B, C, h, w] at timesteps t [B]."""
        return consistent(x, self.denoiser.process.x0(x, self.denoiser.prediction(x, t, text), t), t)


def consistent(x: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """f(x, t) [B, C, h, w] from the clean latents that the network predicts from latents x at timesteps t [B]."""
    skip, out = boundary(t)
    return skip * x + out * clean


def recorded_student(path: Path, name: str, device: torch.device) -> nn.Module:
    """The network of the distilled model with the record at `path`; raises InputError for a model of another kind."""
    from stages.models import record

    found = record.load(path, name)
    if found.kind != "consistency":
        raise InputError(f"model {found.name!r} is of kind {found.kind!r}, expected a distilled consistency model")
    return load_student(found.folder(), device)


def load_student(folder: Path, device: torch.device) -> nn.Module:
    """The network of a distilled model, in float32, frozen. Raises InputError where the folder holds none."""
    from stages.models.bases.loading import load_part

    network: Any = load_part(folder.parent, folder.name)
    if type(network).__name__ != "UNet2DConditionModel":
        raise InputError(f"{folder}: holds a {type(network).__name__}, expected a distilled UNet2DConditionModel")
    return network.to(device).eval().requires_grad_(False)


def boundary(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out at timesteps t [B], each [B, 1, 1, 1]."""
    scaled = (SCALING * t.float()).reshape(-1, 1, 1, 1)
    total = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()
