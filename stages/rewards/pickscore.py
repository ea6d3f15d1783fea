"""PickScore: exp(logit_scale) times the cosine of a CLIP ViT-H/14 trained on Pick-a-Pic (Kirstain et al. 2023).

Source: yuvalkirstain/PickScore (MIT), README; weights `yuvalkirstain/PickScore_v1` in the layout of transformers. A
folder without a tokenizer is read with CLIP's own, which is what the model was trained with.
"""

from __future__ import annotations

import torch
from pydantic import Field

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks.options import Options, options
from stages.rewards.networks.transformers_clip import TransformersClip, load_clip

GIVES = Gives(holds=("config.json",), embedding=True, patches=True, text=True, words=True)


class PickScoreOptions(Options):
    """Options of kind `pickscore`."""

    divide: float = Field(1.0, gt=0, description="the reward is divided by this; Flow-GRPO takes 26, to come near 1")


OPTIONS = PickScoreOptions


def load(record: ModelRecord, device: torch.device | str = "cpu") -> TransformersClip:
    """The reward, around 20 for real images of their prompts; raises InputError for a folder that is no CLIPModel."""
    settings = options(record, PickScoreOptions)
    made = load_clip(record, device, settings)
    made.factor = float(made.model.logit_scale.double().exp()) / settings.divide
    return made
