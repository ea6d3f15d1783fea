"""How sharp a reward is around an image: what it loses within a small distance (RSA-FT, arXiv 2603.21175, equation 10).

    S(x) = R(x) - R(x - rho g / |g|),   g the gradient of R at the image x

The second term is the first-order estimate of the least reward within rho (`flattened`). The source finds that the mean
of S over a method's images falls where people's preference rises. It is a judge for `measure` and no reward to train
on: a larger value is worse. An image costs R twice and one gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.base import Reward, about, load_one
from stages.rewards.flattened import Flattened
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="none", of="one", gradient=False)


class SharpnessOptions(KindOptions):
    """Options of kind `sharpness`."""

    rho: float = Field(0.01, gt=0, description="distance by which an image is moved, of all its numbers together")


OPTIONS = SharpnessOptions


class Sharpness:
    """R(x) - R(x - rho g / |g|) of a differentiable reward R."""

    differentiable = False

    def __init__(self, name: str, reward: Reward, rho: float) -> None:
        self.name, self.reward, self.flattened = name, reward, Flattened(name, reward, rho)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Sharpness [B] of images [B, 3, H, W] in [0, 1], each with its own prompt; above 0 where R is concave."""
        return self.reward(images, prompts) - self.flattened(images, prompts)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Sharpness:
    """The judge; raises InputError where the one model under `of` gives images no gradient."""
    inner = load_one(record, device)
    if not inner.differentiable:
        raise InputError(f"model {record.name!r}: {inner.name!r} gives images no gradient; expected one that does")
    return Sharpness(record.name, inner, options(record, SharpnessOptions).rho)
