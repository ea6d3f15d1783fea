"""The reward a small step away in the direction in which it falls fastest (RSA-FT, arXiv 2603.21175, equation 15).

    R~(x) = R(x + d),   d = -rho g / |g|,   g the gradient of R at the image x,   d held constant

This is the first-order estimate of the least reward within a distance rho of the image. Where the reward has a narrow
peak, R~ is far below R, and training no longer climbs it. The source also perturbs the weights of the policy, which is
no property of a reward and is not done here. Known from secondary notes; that distances are Euclidean over all numbers
of an image in [0, 1] is ours, and so is the choice not to cut x + d to [0, 1], which would stop the gradient there.
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
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="none", of="one", gradient=None)


class FlattenedOptions(KindOptions):
    """Options of kind `flattened`."""

    rho: float = Field(0.01, gt=0, description="distance by which an image is moved, of all its numbers together")


OPTIONS = FlattenedOptions


class Flattened:
    """R(x - rho g / |g|) of a differentiable reward R; two evaluations and one more gradient than R."""

    differentiable = True

    def __init__(self, name: str, reward: Reward, rho: float) -> None:
        self.name, self.reward, self.rho = name, reward, rho

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.reward(images + self.step(images, prompts), prompts)

    def step(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """d [B, 3, H, W], of length rho, without gradient; 0 where the reward has none."""
        with torch.inference_mode(False), torch.enable_grad():
            moved = images.detach().clone().requires_grad_()
            [found] = torch.autograd.grad(self.reward(moved, prompts).sum(), moved)
        length = found.flatten(1).norm(dim=1).clamp(min=torch.finfo(found.dtype).tiny)
        return -self.rho * found / length[:, None, None, None]

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Flattened:
    """The reward; raises InputError where the one model under `of` gives images no gradient."""
    inner = load_one(record, device)
    if not inner.differentiable:
        raise InputError(f"model {record.name!r}: {inner.name!r} gives images no gradient; expected one that does")
    return Flattened(record.name, inner, options(record, FlattenedOptions).rho)
