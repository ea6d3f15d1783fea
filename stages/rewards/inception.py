"""Inception features for FID and KID: the 2048 pooled activations of the network that FID is defined with.

The weights are `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity or `pt_inception-2015-12-05-6726825d.pth`
of pytorch-fid: TensorFlow's network of 2015 under the names of torchvision's `inception_v3`, from which it differs in
how the blocks pool. For numbers as published, say `measure.directions: false`.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception as blocks

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks import checkpoint
from stages.rewards.networks.contrastive import exact, plain
from stages.rewards.networks.features import Features
from stages.rewards.networks.options import KindOptions, options
from stages.rewards.preprocess import Preprocess

GIVES = Gives(score=False, gradient=False, embedding=True)

SIDE, CLASSES = 299, 1008


class InceptionOptions(KindOptions):
    """Options of kind `inception`."""

    resize: Literal["clean", "legacy"] = Field(
        "clean",
        description="clean: bicubic, antialiased, as clean-fid; legacy: bilinear, aliased, as torch-fidelity",
    )


OPTIONS = InceptionOptions


class InceptionFeatures(Features):
    """Images squashed to 299 by 299 and scaled to [-1, 127/128], then the network up to its last pooling."""

    model: blocks.Inception3

    def __init__(self, name: str, model: blocks.Inception3, resize: Literal["clean", "legacy"]) -> None:
        # (255 x - 128) / 128, the scaling of TensorFlow's graph, as a mean and a standard deviation of pixels in [0, 1]
        scaling = Preprocess(SIDE, (128 / 255,) * 3, (128 / 255,) * 3, resize_mode="squash")
        super().__init__(name, model, scaling)
        self.resize = resize

    def embed(self, images: Tensor) -> Tensor:
        """Features [B, 2048], none negative, of images [B, 3, H, W] in [0, 1]."""
        with plain(images):
            pixels = exact(images)
            if self.resize == "legacy":
                pixels = legacy_bilinear(pixels, SIDE)
            else:
                pixels = functional.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
            return self.model(self.preprocess(pixels))

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        return {**super().describe(), "resize": self.resize}


def load(record: ModelRecord, device: torch.device | str = "cpu") -> InceptionFeatures:
    """The network; raises InputError for a damaged or pickled file, or tensors that are not those of this network."""
    settings = options(record, InceptionOptions)
    path = checkpoint.only_file(record)
    model = checkpoint.build(network, checkpoint.read(path), path)
    model.fc = nn.Identity()  # type: ignore[assignment]
    return InceptionFeatures(record.name, model.to(device).float(), settings.resize)


def network() -> blocks.Inception3:
    """torchvision's Inception3 with the pooling of TensorFlow's network and its 1008 classes."""
    parts = [
        blocks.BasicConv2d, AverageInside, blocks.InceptionB, AverageInsideWide, blocks.InceptionD, LastPoolings,
        blocks.InceptionAux,
    ]  # fmt: skip
    return blocks.Inception3(CLASSES, aux_logits=False, inception_blocks=parts, init_weights=False)


class AverageInside(blocks.InceptionA):
    """A block of layers 5 whose pooled branch averages over pixels inside the image alone."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(average(x))]


class AverageInsideWide(blocks.InceptionC):
    """A block of layers 6 whose pooled branch averages over pixels inside the image alone."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(average(x))]


class LastPoolings(blocks.InceptionE):
    """The last two blocks: the first averages inside the image, the second takes maxima."""

    def __init__(self, in_channels: int, **more: object) -> None:
        super().__init__(in_channels, **more)  # type: ignore[arg-type]
        self.last = in_channels == 2048

    def _forward(self, x: Tensor) -> list[Tensor]:
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1) if self.last else average(x)
        return [*super()._forward(x)[:-1], self.branch_pool(pooled)]


def average(x: Tensor) -> Tensor:
    """Mean of 3 by 3 neighbourhoods [B, C, H, W], without the margin around the image."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def legacy_bilinear(images: Tensor, side: int) -> Tensor:
    """Images [B, C, H, W] sampled at `side` by `side` points as TensorFlow 1 did: output i at place i * H / side.

    There is no half-pixel shift and no antialiasing, so that shrinking aliases and the picture moves to the upper left.
    """
    for axis in (-2, -1):
        size = images.shape[axis]
        place = torch.arange(side, device=images.device, dtype=images.dtype) * (size / side)
        low = place.floor().long().clamp(max=size - 1)
        share = (place - low).reshape(-1, *([1] * (-1 - axis)))
        first = images.index_select(axis, low)
        images = first + share * (images.index_select(axis, (low + 1).clamp(max=size - 1)) - first)
    return images
