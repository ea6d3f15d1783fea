"""LPIPS: how different two images look, from the activations of AlexNet (Zhang et al. 2018, eq. 1), version 0.1.

The distance is a sum over layers of weighted squared differences, so it is the squared Euclidean distance of one long
vector per image: `embed` gives that vector, and `measure.features: {lpips: distance}` the mean distance between images
of a prompt. The folder holds the trunk, torchvision's `alexnet-owt-7be5be79.pth`, and the weights of the layers,
`alex.pth` of richzhang/PerceptualSimilarity (BSD-2-Clause), which the `lpips` package ships.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks import checkpoint
from stages.rewards.networks.contrastive import exact, plain
from stages.rewards.networks.features import Features
from stages.rewards.networks.options import KindOptions, options
from stages.rewards.preprocess import Preprocess

GIVES = Gives(score=False, gradient=False, embedding=True)

TAPS = (1, 4, 7, 9, 11)
"""Places of the rectifiers in `features` whose outputs are compared."""
HEADS = tuple(f"lin{number}.model.1.weight" for number in range(len(TAPS)))
# The package maps [0, 1] to [-1, 1] and then takes off this shift and divides by this scale.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LpipsOptions(KindOptions):
    """Options of kind `lpips`."""

    size: int = Field(256, ge=32, description="side in pixels that images are scaled to; vectors grow with its square")


OPTIONS = LpipsOptions


class Lpips(Features):
    """AlexNet's activations, scaled so that squared distances are LPIPS."""

    model: nn.Sequential

    def __init__(self, name: str, model: nn.Sequential, heads: tuple[Tensor, ...], preprocess: Preprocess) -> None:
        super().__init__(name, model, preprocess)
        self.heads = heads

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [B, D] of images [B, 3, H, W] in [0, 1]; |u - v|^2 is the LPIPS of two images."""
        with plain(images):
            return torch.cat(self.layers(self.preprocess(exact(images))), dim=1)

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """One part [B, D_l] per layer: sqrt(w_c / places) times activations of unit length at every place."""
        found: list[Tensor] = []
        for place, layer in enumerate(self.model):
            pixels = layer(pixels)
            if place in TAPS:
                weights = self.heads[len(found)].clamp(min=0) / (pixels.shape[-2] * pixels.shape[-1])
                lengths = (pixels.square().sum(1, keepdim=True) + 1e-20).sqrt() + 1e-10
                found.append((pixels / lengths * weights.sqrt()[:, None, None]).flatten(1))
        return found


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Lpips:
    """The distance; raises InputError where trunk or layer weights are missing, damaged or of another network."""
    settings = options(record, LpipsOptions)
    files = [name for name in record.files if name.endswith(checkpoint.SUFFIXES)]
    states = {name: checkpoint.read(record.file(name)) for name in files}
    heads = next((name for name, state in states.items() if set(state) == set(HEADS)), None)
    trunk = next((name for name, state in states.items() if "features.0.weight" in state), None)
    if heads is None or trunk is None:
        raise InputError(
            f"model {record.name!r}: {record.path} lacks {'alex.pth' if heads is None else 'the trunk of AlexNet'}; "
            "expected alexnet-owt-7be5be79.pth of torchvision and alex.pth of the lpips package"
        )
    model = checkpoint.build(network, _below(states[trunk]), record.file(trunk))
    weights = tuple(states[heads][name].flatten().float().to(device) for name in HEADS)
    mean, std = (tuple(values) for values in zip(*map(_scaling, SHIFT, SCALE), strict=True))
    preprocess = Preprocess(settings.size, mean, std)
    return Lpips(record.name, model.to(device).float(), weights, preprocess)


def network() -> nn.Sequential:
    """The convolutions of torchvision's AlexNet up to the last rectifier."""
    from torchvision.models import alexnet

    return alexnet(weights=None).features[: TAPS[-1] + 1]


def _below(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}


def _scaling(shift: float, scale: float) -> tuple[float, float]:
    """Mean and standard deviation of pixels in [0, 1] that do what shift and scale do to pixels in [-1, 1]."""
    return (1 + shift) / 2, scale / 2
