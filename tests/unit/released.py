"""Prompts and images for released rewards, and how their scores are compared."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stages.models.record import ModelRecord
from stages.rewards.preprocess import CLIP_MEAN, CLIP_STD
from tests.tiny_judges import SIDE

PROMPTS = ["a red circle", "a small blue cross", "a red circle"]


def images(height: int = 40, width: int = 40, count: int = 3) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def with_options(record: ModelRecord, **options: object) -> ModelRecord:
    return ModelRecord(**{**vars(record), "options": options})


def pixels(values: Tensor, side: int = SIDE) -> Tensor:
    """Square images as CLIP takes them, in double precision."""
    made = functional.interpolate(values.double(), (side, side), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (made - mean) / std


def cosine(a: Tensor, b: Tensor) -> np.ndarray:
    x, y = a.detach().double().numpy(), b.detach().double().numpy()
    return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def close(found: Tensor, wanted: np.ndarray | Tensor, tolerance: float = 2e-5) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), rtol=tolerance, atol=tolerance)
