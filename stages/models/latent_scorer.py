"""How well noisy latents fit a prompt, by the first half of a denoising UNet (LRM, arXiv 2502.01051).

Means over height and width of features on the way down and of the middle block are projected into one space with the
text; the score is a scaled cosine. Nothing is decoded, and the network knows how noisy the latents are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from stages.errors import InputError
from stages.models.bases.texts import TextEncoder, Texts
from stages.models.conditioning import Conditioning
from stages.models.features import Features, features

CONFIG, WEIGHTS = "latent_reward.json", "latent_reward.safetensors"
"""Files of a trained scorer: its form, and what was trained."""
SCALE = 2.6592
"""Log of the factor of cosines at the start, as released."""


@dataclass(frozen=True)
class Form:
    """Which features are compared, and which of them are guided.

    `scales`: the last layer of each block on the way down, before it halves the sides, and the middle block; or the
    middle block alone. `guided`: features f of what is guided are f(empty) + guidance (f(text) - f(empty)).
    """

    scales: Literal["all", "middle"] = "all"
    guided: Literal["none", "middle", "all"] = "middle"
    guidance: float = 7.5


class LatentScorer(nn.Module):
    """The network, of which only the first half is evaluated, and two projections without bias."""

    def __init__(self, unet: nn.Module, form: Form, width: int, dimensions: int) -> None:
        """`width` is that of the embedding of a whole text, `dimensions` that of the common space."""
        super().__init__()
        self.unet, self.form = unet, form
        self.visual_projection = nn.Linear(sum(channels(unet, form)), dimensions, bias=False)
        self.text_projection = nn.Linear(width, dimensions, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(SCALE))

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name: projections, scale, and what of the UNet is evaluated."""
        used = ("unet.conv_in.", "unet.time_embedding.", "unet.add_embedding.", "unet.down_blocks.", "unet.mid_block.")
        own = {name: value for name, value in self.named_parameters() if not name.startswith("unet.")}
        return own | {name: value for name, value in self.named_parameters() if name.startswith(used)}

    def pooled(self, x: Tensor, t: Tensor, text: Conditioning) -> list[Tensor]:
        """Means over height and width, [B, channels] each, of what is compared; the middle block's last."""
        return [found.mean((2, 3)) for found in compared(self.unet, features(self.unet, x, t, text), self.form)]

    def projected(self, x: Tensor, t: Tensor, text: Conditioning, empty: Conditioning) -> Tensor:
        """Features [B, D] of latents x [B, C, h, w] at timesteps t [B], given their texts [B]; `empty` has one row."""
        if self.form.guided == "none" or self.form.guidance == 1:
            found = self.pooled(x, t, text)
        else:
            both = Conditioning.cat([text, empty.expand(len(text))])
            pairs = [value.chunk(2) for value in self.pooled(torch.cat([x, x]), torch.cat([t, t]), both)]
            first = len(pairs) - 1 if self.form.guided == "middle" else 0
            found = [
                with_text if place < first else without + self.form.guidance * (with_text - without)
                for place, (with_text, without) in enumerate(pairs)
            ]
        return self.visual_projection(torch.cat(found, dim=1))

    def image_features(self, x: Tensor, t: Tensor, text: Conditioning, empty: Conditioning) -> Tensor:
        """The same of unit length."""
        return normalize(self.projected(x, t, text, empty), dim=-1)

    def text_features(self, pooled: Tensor) -> Tensor:
        """Features [B, D] of unit length of embeddings [B, width] of whole texts."""
        return normalize(self.text_projection(pooled), dim=-1)

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosines [B] of features [B, D]."""
        return self.logit_scale.exp() * (images * texts).sum(-1)


def compared(unet: nn.Module, found: Features, form: Form) -> list[Tensor]:
    """The features [B, c, h, w] that the form names, the middle block's last."""
    if form.scales == "middle":
        return [found.middle]
    return [found.down[place] for place in places(unet, found.ends)] + [found.middle]


def places(unet: nn.Module, ends: Sequence[int]) -> list[int]:
    """Places, among the outputs on the way down, of each block's last layer before its downsampler."""
    blocks: Any = getattr(unet, "down_blocks", [None] * len(ends))
    halves = [getattr(block, "downsamplers", None) is not None for block in blocks]
    return [end - half for end, half in zip(ends, halves, strict=True)]


def channels(unet: nn.Module, form: Form) -> list[int]:
    """Channels of what is compared; raises InputError for a network without a middle block."""
    config: Any = getattr(unet, "config", None)
    if config is None or getattr(unet, "mid_block", None) is None:
        raise InputError(
            f"a latent reward scores with a UNet up to its middle block, and {type(unet).__name__} has none"
        )
    widths = [int(width) for width in config.block_out_channels]
    return [*(widths if form.scales == "all" else []), widths[-1]]


def whole_texts(texts: Texts, prompts: Sequence[str]) -> Tensor:
    """An embedding [B, width] of each whole prompt: the pooled output of a CLIP model, or what SDXL takes as such.

    Raises InputError for a base that has none.
    """
    if isinstance(texts, TextEncoder):
        return texts.pooled(texts.tokens(prompts)[0])
    pooled = texts.encode(prompts)[0].pooled
    if pooled is None:
        raise InputError("a latent reward compares with an embedding of the whole prompt, which this base has not")
    return pooled


@dataclass(frozen=True)
class Judged:
    """How N pairs were judged: `label` [N] is the probability that the first image is preferred, and `weight` [N] is
    how much each pair counts.
    """

    label: Tensor
    weight: Tensor

    @property
    def tie(self) -> Tensor:
        """log 1/2 for ties, so that their least loss is 0, and 0 for other pairs; [N]."""
        return (self.label == 0.5).to(self.label) * math.log(0.5)


def pair_loss(scores: Tensor, judged: Judged) -> Tensor:
    """Losses [N] of scores [N, 2]: cross entropy of the softmax over both images, at its least 0."""
    logs = scores.log_softmax(-1)
    return -(judged.label * logs[:, 0] + (1 - judged.label) * logs[:, 1]) + judged.tie


def contrast(images: tuple[Tensor, Tensor], texts: Tensor, scale: Tensor, judged: Judged) -> Tensor:
    """Losses [N] of telling apart the prompts of an image, and the images of a prompt, in a batch of N pairs.

    `images` are features [N, D] of first and second ones. The preferred image should be given its own prompt among all
    prompts, and the prompt its preferred image among the 2 N images; the mean of both.
    """
    rows = torch.arange(len(texts), device=texts.device)
    by_image = [cross_entropy(scale * side @ texts.T, rows, reduction="none") for side in images]
    logits = scale * texts @ torch.cat(images).T
    by_text = [cross_entropy(logits, rows + side * len(rows), reduction="none") for side in (0, 1)]
    first, second = ((a + b) / 2 for a, b in zip(by_image, by_text, strict=True))
    return judged.label * first + (1 - judged.label) * second + judged.tie / 2


def weighted(losses: Tensor, judged: Judged, apart: Tensor, coefficient: float) -> Tensor:
    """The sum [] of losses [N], each times its share of the weights; those `apart` (bool [N]), whose images are noised
    to different timesteps, also times `coefficient`.
    """
    share = judged.weight / judged.weight.sum()
    return (share * torch.where(apart, coefficient, 1.0) * losses).sum()
