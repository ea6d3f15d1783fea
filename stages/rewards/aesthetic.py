"""LAION's aesthetic predictor v2: an affine score of a CLIP ViT-L/14 image embedding of unit length, about 1 to 10.

Source: christophschuhmann/improved-aesthetic-predictor (Apache-2.0), simple_inference.py; the file
`sac+logos+ava1-l14-linearMSE.pth` there is the head, `openai/clip-vit-large-patch14` the embedding. The prompt plays no
part. The record holds the head's file; under `of` stands the one model that embeds:

    aesthetic: {kind: aesthetic, file: models/sac+logos+ava1-l14-linearMSE.pth,
                of: {clip: {kind: clipscore, folder: models/clip-vit-large-patch14}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.base import Reward, about, load_one, require_embedding
from stages.rewards.networks import checkpoint
from stages.rewards.networks.contrastive import exact, plain
from stages.rewards.networks.options import NoOptions, options

GIVES = Gives(of="one", inner="embedding", embedding=True)
OPTIONS = NoOptions

LAYERS = (0, 2, 4, 6, 7)
"""Places of the linear layers; between them stand dropouts and, in this version of the head, no activation."""


class Aesthetic:
    """w . e + b of an embedding e of unit length: the five affine layers of the head, multiplied out."""

    differentiable = True

    def __init__(self, name: str, reward: Reward, weight: Tensor, bias: Tensor) -> None:
        self.name, self.reward, self.embedder = name, reward, require_embedding(reward)
        self.weight, self.bias = weight, bias

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score [B] of images [B, 3, H, W] in [0, 1], whatever the prompts."""
        embeddings = self.embed(images)
        with plain(images):
            unit = functional.normalize(exact(embeddings), dim=-1)
            return unit @ self.weight.to(unit.dtype) + self.bias.to(unit.dtype)

    def embed(self, images: Tensor) -> Tensor:
        """The embedding [B, D] that is scored, not normalised."""
        return self.embedder.embed(images)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        return about(self.reward)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Aesthetic:
    """The score; raises InputError for a file that is not this head, or one of another width than the embedding."""
    options(record, NoOptions)
    path = checkpoint.only_file(record)
    weight, bias = affine(checkpoint.read(path), path)
    inner = load_one(record, device)
    embedder = require_embedding(inner)
    with torch.no_grad():
        width = embedder.embed(torch.zeros(1, 3, 32, 32, device=device)).shape[-1]
    if width != len(weight):
        raise InputError(f"{path}: scores embeddings of width {len(weight)}, but those of {record.name!r} have {width}")
    return Aesthetic(record.name, inner, weight.to(device), bias.to(device))


def affine(state: Mapping[str, Tensor], where: object) -> tuple[Tensor, Tensor]:
    """Weight [D] and bias [] of the whole head in float64; InputError, starting with `where`, for others."""
    names = {f"layers.{place}.{part}" for place in LAYERS for part in ("weight", "bias")}
    if set(state) != names:
        odd = min(names ^ set(state))
        raise InputError(f"{where}: not the linear head of the aesthetic predictor v2, for one at {odd!r}")
    width = state["layers.0.weight"].shape[1]
    weight, bias = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    try:
        for place in LAYERS:
            layer = state[f"layers.{place}.weight"].double()
            weight, bias = layer @ weight, layer @ bias + state[f"layers.{place}.bias"].double()
    except RuntimeError as error:
        raise InputError(f"{where}: its layers do not fit each other: {checkpoint.one_line(error)}") from None
    return weight[0], bias[0]
