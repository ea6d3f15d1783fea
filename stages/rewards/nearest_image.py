"""The oracle of a world of real images: the nearest of them says what an image shows, without a network or a gradient.

`file` is Parquet of the real images (docs/emoji-world.md); `options: {taste: coarse}` chooses the terms of the utility.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from stages.emoji import taste
from stages.emoji.oracle import Oracle, Seen
from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks.nearest import Nearest
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="needed", gradient=False, sees="stages.emoji.oracle:Seen")


class NearestImageOptions(KindOptions):
    """What a study may say under `options`."""

    taste: Literal["both", "coarse", "fine"] = Field("both", description="terms of the utility")


OPTIONS = NearestImageOptions


class NearestImage(Nearest[Seen]):
    """`stages.emoji.taste.utility` as a reward, and what it rests on."""

    kind = "nearest_image"

    def __init__(self, name: str, oracle: Oracle, options: NearestImageOptions) -> None:
        super().__init__(name, oracle)
        self.options = options

    def values(self, seen: Seen) -> np.ndarray:
        """Utility [B] of what was seen."""
        return taste.utility(seen, self.options.taste)

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
