"""A weighted sum of rewards: w_1 R_1 + w_2 R_2 + ...

mixed: {kind: weighted_sum, of: {hps: {kind: hps, ...}, pick: {kind: pickscore, ...}},
        options: {weights: {hps: 1.0, pick: 0.05}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.params import Settings, nearest
from stages.rewards.base import Reward, about, load_parts
from stages.rewards.networks.options import options

GIVES = Gives(files="none", of="several", gradient=None)


class WeightedSumOptions(Settings):
    """Options of kind `weighted_sum`."""

    weights: dict[str, float] = Field(description="factor of every model under `of`, on its own scale")


class WeightedSum:
    """Sum of rewards, each times its weight. It gives a gradient where all of them do."""

    def __init__(self, name: str, parts: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        self.name, self.parts, self.weights = name, parts, weights
        self.differentiable = all(part.differentiable for part in parts.values())

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return torch.stack([self.weights[name] * part(images, prompts) for name, part in self.parts.items()]).sum(0)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(*self.parts.values())


def load(record: ModelRecord, device: torch.device | str = "cpu") -> WeightedSum:
    """The sum; raises InputError where the weights are not those of the models under `of`."""
    weights = options(record, WeightedSumOptions).weights
    parts = load_parts(record, device)
    for name in weights.keys() - parts.keys():
        raise InputError(f"model {record.name!r}: options.weights: unknown model {name!r}{nearest(name, parts)}")
    for name in parts.keys() - weights.keys():
        raise InputError(f"model {record.name!r}: options.weights: {name!r} has none; expected one for every model")
    return WeightedSum(record.name, parts, weights)
