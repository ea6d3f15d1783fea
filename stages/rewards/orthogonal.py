"""A CLIP-like reward with less of what all prompts share (LongAlign; Liu et al. 2025, eq. 7, and their loss.py).

With u the direction of the mean text feature, a prompt's feature t becomes t - (1 - keep) <t, u> u before the product
with the image: the part of the reward that any text would give, which is what over-optimisation feeds on, counts only
`keep` times. The paper takes the mean over the batch; so does `mean: batch`, and a reward then depends on batch mates.
Otherwise the mean is over the lines of a file of prompts, named as this model's `file`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.base import about, load_one
from stages.rewards.networks.checkpoint import only_file
from stages.rewards.networks.contrastive import Contrastive
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="optional", of="one", inner="text", embedding=True, text=True, words=True)


class OrthogonalOptions(KindOptions):
    """Options of kind `orthogonal`."""

    keep: float = Field(0.3, ge=0, le=1, description="share that is kept of what all prompts have in common")
    mean: Literal["file", "batch"] = Field("file", description="where the common part is taken from")

    def check(self, parts: Collection[str], files: bool) -> None:
        """Raise ValueError where prompts of a file are asked for and there is none."""
        if self.mean == "file" and not files:
            raise ValueError("mean: no file of prompts; name one as `file`, or say mean: batch")


OPTIONS = OrthogonalOptions


class Orthogonal:
    """The reward with its text features turned away from their common direction."""

    differentiable = True

    def __init__(self, name: str, reward: Contrastive, keep: float, common: Tensor | None) -> None:
        self.name, self.reward, self.keep, self.common = name, reward, keep, common

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.compare(self.embed(images), prompts)

    def embed(self, images: Tensor) -> Tensor:
        """Image features [B, D], not normalised."""
        return self.reward.embed(images)

    def compare(self, embeddings: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of image features [B, D] with their prompts."""
        if len(prompts) != len(embeddings):
            raise ValueError(f"{len(embeddings)} images but {len(prompts)} prompts")
        return self.reward.against(embeddings, self.encode_text(prompts))

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D] with less of the common part, and so no longer of unit length."""
        texts = self.reward.encode_text(prompts)
        common = direction(texts) if self.common is None else self.common
        return texts - (1 - self.keep) * (texts @ common)[:, None] * common

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward)


def direction(texts: Tensor) -> Tensor:
    """The unit vector [D] along the mean of text features [n, D]."""
    return functional.normalize(texts.mean(0), dim=0)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Orthogonal:
    """The reward; raises InputError where the model under `of` has no text features, or no prompts are given."""
    settings = options(record, OrthogonalOptions)
    inner = load_one(record, device)
    if not isinstance(inner, Contrastive):
        raise InputError(f"model {record.name!r}: {inner.name!r} has no text features; expected a CLIP-like reward")
    common = None
    if settings.mean == "file":
        path = only_file(record, (".txt",))
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise InputError(f"{path}: has no prompts; expected one per line")
        with torch.inference_mode(False):
            common = direction(inner.encode_text(lines))
    return Orthogonal(record.name, inner, settings.keep, common)
