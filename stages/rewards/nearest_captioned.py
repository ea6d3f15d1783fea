"""The oracle of a world of your own images: the nearest of them says what an image shows (docs/own-world.md).

`file` or `folder` is Parquet with columns of images (bytes), captions and attributes; `options` names the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from stages.captioned import library
from stages.captioned.oracle import Oracle, Seen
from stages.emoji import taste
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks.nearest import Nearest
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="needed", gradient=False, sees="stages.captioned.oracle:Seen")


class NearestCaptionedOptions(KindOptions):
    """What a study may say under `options`."""

    image: str = Field("image", description="column of the images, as bytes")
    caption: str = Field("caption", description="column of the captions")
    attributes: tuple[str, ...] = Field(min_length=1, description="columns of what captions may leave open")
    taste: Literal["caption", "both", "coarse", "fine"] = Field(
        "caption", description="terms of the utility; caption: the right image, not broken, and nothing else"
    )

    def check_files(self, files: Sequence[Path]) -> None:
        from stages.captioned.library import require_columns

        require_columns(files, (self.image, self.caption, *self.attributes))


OPTIONS = NearestCaptionedOptions


class NearestCaptioned(Nearest[Seen]):
    """A utility of `stages.emoji.taste` as a reward, and what it rests on."""

    kind = "nearest_captioned"

    def __init__(self, name: str, oracle: Oracle, options: NearestCaptionedOptions) -> None:
        super().__init__(name, oracle)
        self.options = options

    def values(self, seen: Seen) -> np.ndarray:
        """Utility [B] of what was seen."""
        chosen = self.options.taste
        return taste.shown(seen) if chosen == "caption" else taste.utility(seen, chosen)

    def describe(self) -> dict[str, object]:
        """What decides its scores beside the real images."""
        return self.options.model_dump()


def load(record: ModelRecord, device: torch.device | str = "cpu") -> NearestCaptioned:
    """The oracle of the recorded Parquet files; it works on the CPU whatever the device.

    Raises InputError for other options, missing columns, and images of several sizes.
    """
    chosen = options(record, NearestCaptionedOptions)
    files = [record.file(name) for name in sorted(record.files)]
    return NearestCaptioned(
        record.name, Oracle(library.read(files, chosen.image, chosen.caption, chosen.attributes)), chosen
    )
