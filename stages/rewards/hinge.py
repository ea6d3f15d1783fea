"""A reward that counts up to a limit: min(R, limit), without gradient beyond it.

Maximising it is minimising relu(limit - R), as ReFL does with ImageReward and limit 2 (THUDM/ImageReward, ReFL.py) and
SRPO with HPSv2.1 and limit 0.7 (Shen et al. 2025): an image that is good enough is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.base import Reward, about, load_one
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="none", of="one", gradient=None)


class HingeOptions(KindOptions):
    """Options of kind `hinge`."""

    limit: float = Field(description="reward beyond which more counts for nothing, on the scale of what is wrapped")


OPTIONS = HingeOptions


class Hinge:
    """min(R, limit) of the reward R."""

    def __init__(self, name: str, reward: Reward, limit: float) -> None:
        self.name, self.reward, self.limit = name, reward, limit
        self.differentiable = reward.differentiable

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.reward(images, prompts).clamp(max=self.limit)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Hinge:
    """The cut reward of the one model under `of`."""
    return Hinge(record.name, load_one(record, device), options(record, HingeOptions).limit)
