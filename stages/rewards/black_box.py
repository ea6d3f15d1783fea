"""A reward as numbers alone, beside the features of another model.

boxed: {kind: black_box, of: {reward: {kind: shapes_oracle}, features: {kind: open_clip, folder: shipped/shapes/clip}}}

Whatever gradient the reward has is hidden: it can only be asked. The features are what a proxy of it is fitted on
(method `online`), or what the diversity of a set is taken in (`large_scale_rl`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.base import Reward, require_text
from stages.rewards.networks.options import NoOptions
from stages.rewards.with_features import WithFeatures, pair

GIVES = Gives(files="none", of="pair", gradient=False, embedding=True, words=None)
OPTIONS = NoOptions


class BlackBox(WithFeatures):
    """A pair whose judge gives images no gradient, and whose features are of texts too where the model has them."""

    def __init__(self, name: str, reward: Reward, features: Reward) -> None:
        super().__init__(name, reward, features)
        self.differentiable = False

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt, without gradient."""
        with torch.no_grad():
            return super().__call__(images.detach(), prompts)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D] in the space of `embed`; raises InputError where the model has none."""
        return require_text(self.features).encode_text(prompts)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> BlackBox:
    """The pair under `of`; raises InputError where it is not a `reward` and `features`, or these embed no images."""
    return BlackBox(record.name, *pair(record, device))
