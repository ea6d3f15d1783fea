"""Feature networks: they span a space for diversity and set metrics, and reward nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.rewards.networks.contrastive import exact, plain
from stages.rewards.preprocess import Preprocess


class Features:
    """A frozen network from images to vectors. Subclasses say in `tokens` or `embed` what the vectors are."""

    differentiable = False

    def __init__(self, name: str, model: nn.Module, preprocess: Preprocess) -> None:
        self.name, self.preprocess = name, preprocess
        self.model = model.eval().requires_grad_(False)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises InputError: there is no reward."""
        raise InputError(f"model {self.name!r} is a feature network and gives no reward; name it in measure.features")

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        return {"preprocess": self.preprocess.describe()}

    def _pixels(self, images: Tensor) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        return self.preprocess(images.to(torch.promote_types(exact(images).dtype, dtype))).to(dtype)


class TokenFeatures(Features):
    """A transformer whose first token stands for the image and whose others stand for its patches."""

    def embed(self, images: Tensor) -> Tensor:
        """The first token [B, D] after the last norm, not scaled to unit length, of images [B, 3, H, W] in [0, 1]."""
        return self._tokens(images)[:, 0]

    def patches(self, images: Tensor) -> Tensor:
        """Patch tokens [B, N, D] after the last norm, in reading order."""
        return self._tokens(images)[:, 1:]

    def _tokens(self, images: Tensor) -> Tensor:
        with plain(images):
            return exact(self.model(pixel_values=self._pixels(images)).last_hidden_state)
