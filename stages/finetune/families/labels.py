"""Who says which image of a pair is the preferred one: the curated labels, or the training reward."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.pair_settings import LabelSettings
from stages.finetune.reward import LatentReward


def labelled(pairs: LatentPairs, batch: Batch, settings: LabelSettings, reward: LatentReward) -> LatentPairs:
    """The pairs as the settings label them. By the reward, the image that it scores higher is the winner, and ties have
    label 1/2; both images are decoded and scored.
    """
    if settings.kind == "curated":
        return pairs
    first, second = (reward.values(side, batch.prompts) for side in (pairs.winner, pairs.loser))
    right = second <= first
    label = soft_label(torch.maximum(first, second), torch.minimum(first, second), settings.range)
    keep = right[:, None, None, None]
    return replace(
        pairs, winner=torch.where(keep, pairs.winner, pairs.loser), loser=torch.where(keep, pairs.loser, pairs.winner),
        label=label.to(pairs.label),
    )  # fmt: skip


def soft_label(high: Tensor, low: Tensor, scale: float | None) -> Tensor:
    """sigmoid((high - low) / scale) [N] of two scores [N] (SmPO); without a scale 1, or 1/2 where they are equal."""
    if scale is not None:
        return torch.sigmoid((high - low) / scale)
    return torch.where(high > low, 1.0, 0.5).to(high)
