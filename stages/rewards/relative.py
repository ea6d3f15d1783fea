"""A reward relative to what it gives the same image under other words (SRPO; Shen et al. 2025, eq. 9 and their code).

(1 + k) R(image, more + prompt) - R(image, less + prompt): what every prompt gains alike, such as saturation, cancels
for the most part. For a model with one space for images and texts this is the product of the image with
(1 + k) T(more) - T(less), as Tencent-Hunyuan/SRPO computes it (SRP_cfg); the image is then encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.base import Reward, TextImage, about, load_one
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="none", of="one", gradient=None)


class RelativeOptions(KindOptions):
    """Options of kind `relative`."""

    more: str = Field("", description="words before the prompt for what is wanted, `Realistic photo. ` say")
    less: str = Field(description="words before the prompt for what is not wanted, `Oil painting. ` say")
    k: float = Field(0.0, ge=0, description="how much more the wanted side weighs")


OPTIONS = RelativeOptions


class Relative:
    """(1 + k) R under `more` minus R under `less`."""

    def __init__(self, name: str, reward: Reward, words: RelativeOptions) -> None:
        self.name, self.reward, self.words = name, reward, words
        self.differentiable = reward.differentiable

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        more, less = ([words + prompt for prompt in prompts] for words in (self.words.more, self.words.less))
        if isinstance(self.reward, TextImage):
            seen = self.reward.embed(images)
            return (1 + self.words.k) * self.reward.compare(seen, more) - self.reward.compare(seen, less)
        return (1 + self.words.k) * self.reward(images, more) - self.reward(images, less)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Relative:
    """The relative reward of the one model under `of`."""
    return Relative(record.name, load_one(record, device), options(record, RelativeOptions))
