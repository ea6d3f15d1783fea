"""What the oracles by the nearest real image share: they see images as a file would hold them, then give a utility."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from stages.pictures import levels

S = TypeVar("S")
C = TypeVar("C", covariant=True)


class Sees(Protocol[C]):
    """Compares images with real ones."""

    def see(self, images: np.ndarray, prompts: Sequence[str]) -> C:
        """What is seen in uint8 images [B, H, W, 3], each with its own prompt."""
        ...


class Nearest(ABC, Generic[S]):
    """A utility of what an oracle sees, as a reward without gradient."""

    differentiable = False

    def __init__(self, name: str, oracle: Sees[S]) -> None:
        self.name, self.oracle = name, oracle

    @abstractmethod
    def values(self, seen: S) -> np.ndarray:
        """Utility [B] of what was seen."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What decides its scores beside the real images."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Utility [B] float32 of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.utility(self.see(images, prompts), prompts).to(images.device)

    def see(self, images: Tensor, prompts: Sequence[str]) -> S:
        """What is seen in images [B, 3, H, W] in [0, 1], after rounding to 8 bits as in a file."""
        return self.oracle.see(levels(images), prompts)

    def utility(self, seen: S, prompts: Sequence[str]) -> Tensor:
        """Utility [B] float32 of what was seen."""
        return torch.from_numpy(self.values(seen)).float()
