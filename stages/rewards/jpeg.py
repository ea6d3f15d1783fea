"""How well an image compresses: minus its size as a JPEG file, in kilobytes; or plus, with the option `large`.

The first two rewards of DDPO (Black et al. 2024, section 5.1), which have no gradient and do not depend on the prompt.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.pictures import levels
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="none", gradient=False)


class JpegOptions(KindOptions):
    """Options of kind `jpeg`."""

    quality: int = Field(95, ge=1, le=95, description="of the JPEG file")
    large: bool = Field(False, description="large files are good, instead of small ones")


OPTIONS = JpegOptions


class Jpeg:
    """Sizes of JPEG files of `quality`, negative unless `large`."""

    differentiable = False

    def __init__(self, name: str, quality: int = 95, large: bool = False) -> None:
        self.name, self.quality, self.sign = name, quality, 1 if large else -1

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] float32 of images [B, 3, H, W] in [0, 1]."""
        return torch.tensor([self.sign * self._size(pixels) for pixels in levels(images)], device=images.device)

    def _size(self, pixels: np.ndarray) -> float:
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, format="JPEG", quality=self.quality)
        return written.tell() / 1000


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Jpeg:
    """From the options `quality` (1 to 95, 95) and `large` (false); raises InputError for others."""
    settings = options(record, JpegOptions)
    return Jpeg(record.name, settings.quality, settings.large)
