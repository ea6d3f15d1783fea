"""What all models with one space for images and texts share: the cosine, in single precision, of features kept once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.rewards.preprocess import Preprocess


class Contrastive(ABC):
    """A frozen model of images and texts: `factor` times the cosine of their features is its reward.

    Networks compute in the dtype of their weights, outside of any autocast region. Features are normalised and
    multiplied in single precision whatever that dtype: the differences that matter between cosines (0.01) are hardly
    larger than the steps of half-precision numbers of that size.
    """

    differentiable = True

    def __init__(self, name: str, model: nn.Module, preprocess: Preprocess, factor: float = 1.0) -> None:
        self.name = name
        self.preprocess = preprocess
        self.factor = factor
        self.model = model.eval().requires_grad_(False)
        self._texts: dict[str, Tensor] = {}

    @abstractmethod
    def see(self, pixels: Tensor) -> Tensor:
        """Image features [B, D] of preprocessed images, as the network gives them."""

    @abstractmethod
    def read(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D] as the network gives them."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt: `factor` times a cosine."""
        return self.compare(self.embed(images), prompts)

    def embed(self, images: Tensor) -> Tensor:
        """Image features [B, D], not normalised."""
        with plain(images):
            return exact(self.see(self.pixels(images)))

    def pixels(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] as the network takes them: resized in single precision, then in its dtype."""
        dtype = next(self.model.parameters()).dtype
        return self.preprocess(images.to(torch.promote_types(exact(images).dtype, dtype))).to(dtype)

    def compare(self, embeddings: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of image features [B, D] with their prompts."""
        if len(prompts) != len(embeddings):
            raise ValueError(f"{len(embeddings)} images but {len(prompts)} prompts")
        return self.against(embeddings, self.encode_text(prompts))

    def against(self, embeddings: Tensor, texts: Tensor) -> Tensor:
        """Reward [B] of image features [B, D] with text features [B, D], which keep their length."""
        with plain(embeddings):
            return self.factor * (functional.normalize(exact(embeddings), dim=-1) * texts).sum(-1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D] of unit length; each distinct prompt is encoded once and kept.

        Each by itself: the last bits of a batch depend on all of its prompts, and a job that goes on where it stopped
        may batch a prompt with other ones than a job that was never interrupted.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt in self._texts:
                continue
            # Kept features outlive the caller's mode: made under inference mode they could never meet a gradient.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                found = functional.normalize(exact(self.read([prompt])), dim=-1)
            self._texts[prompt] = found[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        factor = {"factor": self.factor} if self.factor != 1 else {}
        return {"preprocess": self.preprocess.describe(), **factor}

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def exact(tensor: Tensor) -> Tensor:
    """`tensor` in single precision, or in double where it has that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def plain(tensor: Tensor) -> torch.autocast:
    """A region in which no autocast reaches computations on the device of `tensor`."""
    return torch.autocast(tensor.device.type, enabled=False)
