"""Networks so small that every number and gradient can be worked out by hand, with the calls of the real ones.

A set whose weights are one file `pixelwise.safetensors` uses them: all that the stages compute around a network can
then be compared with plain double-precision formulas, from the noise to the optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = "pixelwise.safetensors"


class PixelDenoiser(nn.Module):
    """eps = second tanh(first x + words c + time t/1000) at each pixel; c is the mean of the text embeddings."""

    first: nn.Parameter
    words: nn.Parameter
    time: nn.Parameter
    second: nn.Parameter

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in ("first", "words", "time", "second"):
            self.register_parameter(name, nn.Parameter(weights[name].clone()))

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        """Noise prediction [B, C, h, w] for x [B, C, h, w], t ([] or [B]) and text [B, length, width]."""
        text = encoder_hidden_states.mean(1) @ self.words.T
        time = (t / 1000).reshape(-1, 1) * self.time
        hidden = torch.tanh(torch.einsum("oc,bchw->bohw", self.first, x) + (text + time)[:, :, None, None])
        return (torch.einsum("oc,bchw->bohw", self.second, hidden),)


class PixelAutoencoder(nn.Module):
    """Pixels are linear in the latents under them, each repeated 8 by 8; latents are linear in the mean pixel."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._decode, self._encode, self._spread = (nn.Buffer(weights[name]) for name in ("decode", "encode", "spread"))
        self.config = SimpleNamespace(scaling_factor=float(weights["scale"]))

    def encode(self, images: Tensor, return_dict: bool = True) -> tuple[SimpleNamespace]:
        """Posterior with `mean` and `std` [B, 4, h, w] of images [B, 3, 8 h, 8 w] in [-1, 1]."""
        mean = torch.einsum("oc,bchw->bohw", self._encode, functional.avg_pool2d(images, 8))
        return (SimpleNamespace(mean=mean, std=self._spread[:, None, None].expand_as(mean)),)

    def decode(self, latents: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        """Images [B, 3, 8 h, 8 w] of latents [B, 4, h, w]."""
        pixels = torch.einsum("oc,bchw->bohw", self._decode, latents)
        return (pixels.repeat_interleave(8, 2).repeat_interleave(8, 3),)


class Words(nn.Module):
    """A vector per token."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Buffer(table)

    def forward(self, ids: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        """Embeddings [B, length, width] of token ids [B, length]."""
        return (self.table[ids],)


class LinearReward(nn.Module):
    """Image features linear in the means of 7 by 7 patches; text features linear in the mean token."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.image, self.bias = nn.Buffer(weights["judge_image"]), nn.Buffer(weights["judge_bias"])
        self.table = nn.Buffer(weights["judge_words"])
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Features [B, D] of pixels [B, 3, 224, 224]."""
        return functional.avg_pool2d(pixels, 32).flatten(1) @ self.image.T + self.bias

    def encode_text(self, ids: Tensor) -> Tensor:
        """Features [B, D] of token ids [B, length]."""
        return self.table[ids].mean(1)


@dataclass(frozen=True)
class Pixelwise:
    """All networks of a set, frozen."""

    base: PixelDenoiser
    tuned: PixelDenoiser
    vae: PixelAutoencoder
    text: Words
    judge: LinearReward


def load(weights: Mapping[str, Tensor]) -> Pixelwise:
    """The networks from one dictionary: `base.*`, `tuned.*`, and the rest by name."""

    def denoiser(prefix: str) -> PixelDenoiser:
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        return PixelDenoiser(own).requires_grad_(False)

    return Pixelwise(
        denoiser("base."), denoiser("tuned."), PixelAutoencoder(weights), Words(weights["table"]), LinearReward(weights)
    )
