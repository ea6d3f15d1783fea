"""A weighted sum of rewards: w_1 R_1 + w_2 R_2 + ...

mixed: {kind: weighted_sum, of: {hps: {kind: hps, ...}, pick: {kind: pickscore, ...}},
        options: {weights: {hps: 1.0, pick: 0.05}}}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.params import nearest
from stages.rewards.base import Reward, about, load_parts
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="none", of="several", gradient=None)


class WeightedSumOptions(KindOptions):
    """Options of kind `weighted_sum`."""

    weights: dict[str, float] = Field(description="factor of every model under `of`, on its own scale")

    def check(self, parts: Collection[str], files: bool) -> None:
        """Raise ValueError unless every part has a weight and every weight a part."""
        for name in self.weights.keys() - parts:
            raise ValueError(f"weights: unknown model {name!r}{nearest(name, parts)}")
        for name in set(parts) - self.weights.keys():
            raise ValueError(f"weights: {name!r} has none; expected one for every model")


OPTIONS = WeightedSumOptions


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
    return WeightedSum(record.name, parts, weights)
