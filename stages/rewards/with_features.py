"""A reward with another model's features of images: the scores are of `reward`, the features of `features`.

hps: {kind: with_features, of: {reward: {kind: hps, ...}, features: {kind: clipscore, ...}}}

What is done with a reward's features of images (the likeness of ImageReFLV2, the diversity of sets) is then done with
those of the other model, and every score stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.base import Embedder, Reward, about, load_parts, require_embedding
from stages.rewards.networks.options import NoOptions, options

GIVES = Gives(files="none", of="pair", gradient=None, embedding=True)
OPTIONS = NoOptions

PARTS = ("reward", "features")


class WithFeatures:
    """`reward` as a judge, `features` as an embedder."""

    def __init__(self, name: str, reward: Reward, features: Reward) -> None:
        self.name, self.reward, self.features = name, reward, features
        self.embedder: Embedder = require_embedding(features)
        self.differentiable = reward.differentiable

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.reward(images, prompts)

    def embed(self, images: Tensor) -> Tensor:
        """Image features [B, D] of the other model, not normalised."""
        return self.embedder.embed(images)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward, self.features)


def unboxed(reward: Reward) -> Reward:
    """The model that judges: that of a pair, or `reward` itself."""
    return unboxed(reward.reward) if isinstance(reward, WithFeatures) else reward


def pair(record: ModelRecord, device: torch.device | str) -> tuple[Reward, Reward]:
    """The two models under `of`; raises InputError where they are not a `reward` and `features`."""
    options(record, NoOptions)
    parts = load_parts(record, device)
    if set(parts) != set(PARTS):
        raise InputError(f"model {record.name!r}: of: found {', '.join(parts)}, expected {' and '.join(PARTS)}")
    return parts["reward"], parts["features"]


def load(record: ModelRecord, device: torch.device | str = "cpu") -> WithFeatures:
    """The pair under `of`; raises InputError where it is not a `reward` and `features`, or these embed no images."""
    return WithFeatures(record.name, *pair(record, device))
