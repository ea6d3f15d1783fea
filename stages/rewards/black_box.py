"""A reward as numbers alone, beside the image features of another model.

boxed: {kind: black_box, of: {reward: {kind: shapes_oracle}, features: {kind: open_clip, folder: shipped/shapes/clip}}}

Whatever gradient the reward has is hidden: it can only be asked. The features are what a proxy of it is fitted on
(method `online`), or what the diversity of a set is taken in (`large_scale_rl`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.record import ModelRecord
from stages.rewards.base import Reward, about, load_parts, require_embedding, require_text

PARTS = ("reward", "features")


class BlackBox:
    """One model judges, another one's features describe the image."""

    differentiable = False

    def __init__(self, name: str, reward: Reward, features: Reward) -> None:
        self.name, self.reward, self.features = name, reward, features
        self._embedder = require_embedding(features)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt, without gradient."""
        with torch.no_grad():
            return self.reward(images.detach(), prompts)

    def embed(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, H, W] in [0, 1], not normalised; the gradient flows to the images."""
        return self._embedder.embed(images)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D] in the same space; raises InputError where the model has none."""
        return require_text(self.features).encode_text(prompts)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward, self.features)


def unboxed(reward: Reward) -> Reward:
    """The model that judges: that of a black box, or `reward` itself."""
    return unboxed(reward.reward) if isinstance(reward, BlackBox) else reward


def load(record: ModelRecord, device: torch.device | str = "cpu") -> BlackBox:
    """The two models under `of`; raises InputError where they are others than `reward` and `features`, or the latter
    has no embedding.
    """
    parts = load_parts(record, device)
    if set(parts) != set(PARTS):
        raise InputError(f"model {record.name!r}: of: found {', '.join(parts)}, expected {' and '.join(PARTS)}")
    return BlackBox(record.name, parts["reward"], parts["features"])
