"""DINOv2 features: the class token after the last norm (Oquab et al. 2024), such as `facebook/dinov2-base`."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks.features import TokenFeatures
from stages.rewards.networks.folder import pretrained
from stages.rewards.networks.options import Options, options
from stages.rewards.preprocess import NORMALISATIONS, Preprocess

GIVES = Gives(holds=("config.json",), score=False, gradient=False, embedding=True, patches=True)


class Dinov2Options(Options):
    """Options of kind `dinov2`."""

    size: int = Field(224, ge=14, description="side in pixels that images are scaled to, a multiple of the patch size")


OPTIONS = Dinov2Options


def load(record: ModelRecord, device: torch.device | str = "cpu") -> TokenFeatures:
    """The network in the folder of `record`; raises InputError for a folder that is no Dinov2Model.

    Images are scaled so that their shorter side fits, bicubic with antialiasing, and cut in the middle. Positions are
    interpolated from those of the training resolution.
    """
    from transformers import Dinov2Model

    settings = options(record, Dinov2Options)
    model: Any = pretrained(Dinov2Model, record, settings.dtype, device)
    if settings.size % model.config.patch_size:
        raise InputError(
            f"model {record.name!r}: options.size {settings.size} is no multiple of patches of"
            f" {model.config.patch_size}"
        )
    mean, std = NORMALISATIONS[settings.normalise or "imagenet"]
    return TokenFeatures(record.name, model, Preprocess(settings.size, mean, std))
