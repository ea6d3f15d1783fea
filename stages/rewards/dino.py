"""DINO features: the class token of a self-distilled ViT (Caron et al. 2021), such as `facebook/dino-vits16`.

ImageReFL's diversity is 1 minus the mean cosine of these features between images of a prompt. The network was trained
on pixels normalised for ImageNet, which is the default here; the released code of ImageReFL feeds it pixels normalised
for CLIP: `options: {normalise: clip}`. The two give different numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks.features import TokenFeatures
from stages.rewards.networks.folder import pretrained
from stages.rewards.networks.options import Options, options
from stages.rewards.preprocess import NORMALISATIONS, Preprocess

GIVES = Gives(holds=("config.json",), score=False, gradient=False, embedding=True, patches=True)
OPTIONS = Options


def load(record: ModelRecord, device: torch.device | str = "cpu") -> TokenFeatures:
    """The network in the folder of `record`; raises InputError for a folder that is no ViTModel.

    Images are scaled so that their shorter side fits, bicubic with antialiasing, and cut in the middle.
    """
    from transformers import ViTModel

    settings = options(record, Options)
    model: Any = pretrained(ViTModel, record, settings.dtype, device, add_pooling_layer=False)
    mean, std = NORMALISATIONS[settings.normalise or "imagenet"]
    return TokenFeatures(record.name, model, Preprocess(model.config.image_size, mean, std))
