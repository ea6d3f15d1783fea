"""The oracle of a world of real images: the nearest of them says what an image shows, without a network or a gradient.

`file` is Parquet of the real images (docs/emoji-world.md); `options: {taste: coarse}` chooses the terms of the utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.emoji import taste
from stages.emoji.oracle import Oracle, Seen
from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.pictures import levels
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="needed", gradient=False, sees="stages.emoji.oracle:Seen")


class NearestImageOptions(KindOptions):
    """What a study may say under `options`."""

    taste: Literal["both", "coarse", "fine"] = Field("both", description="terms of the utility")


OPTIONS = NearestImageOptions


class NearestImage:
    """`stages.emoji.taste.utility` as a reward, and what it rests on."""

    differentiable = False
    kind = "nearest_image"

    def __init__(self, name: str, oracle: Oracle, options: NearestImageOptions) -> None:
        self.name, self.oracle, self.options = name, oracle, options

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Utility [B] float32 of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.utility(self.see(images, prompts), prompts).to(images.device)

    def see(self, images: Tensor, prompts: Sequence[str]) -> Seen:
        """What is seen in images [B, 3, H, W] in [0, 1], after rounding to 8 bits as in a file."""
        return self.oracle.see(levels(images), prompts)

    def utility(self, seen: Seen, prompts: Sequence[str]) -> Tensor:
        """Utility [B] float32 of what was seen."""
        return torch.from_numpy(taste.utility(seen, self.options.taste)).float()

    def describe(self) -> dict[str, object]:
        """What decides its scores beside the real images."""
        return {"taste": self.options.taste}


def load(record: ModelRecord, device: torch.device | str = "cpu") -> NearestImage:
    """The oracle of the real images in its one file; it works on the CPU whatever the device.

    Raises InputError for other options or a file of another layout.
    """
    if len(record.files) != 1:
        raise InputError(f"model {record.name!r}: {len(record.files)} files, expected one, Parquet of the real images")
    chosen = options(record, NearestImageOptions)
    return NearestImage(record.name, Oracle.load(record.file(*record.files)), chosen)
