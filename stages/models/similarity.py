"""Similarity of images of one prompt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pairwise_diversity(features: Tensor) -> Tensor:
    """1 - mean cosine over the pairs of n feature vectors [n, D], n at least 2; float32, a scalar in [0, 2].

    The mean over pairs is (|sum of unit vectors|^2 - n) / (n (n - 1)). ImageReFL's code, dino_diversity.py. What
    rounding takes below 0, where all are equal, is 0.
    """
    units = normalize(features.float(), dim=-1)
    count = len(units)
    value = 1 - (units.sum(0).square().sum() - count) / (count * (count - 1))
    rounding = 64 * count * torch.finfo(value.dtype).eps
    return torch.where((value < 0) & (value >= -rounding), torch.zeros_like(value), value)
