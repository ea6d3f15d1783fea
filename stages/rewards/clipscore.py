"""CLIPScore with a named model in the layout of transformers, such as `openai/clip-vit-base-patch32`.

Hessel et al. 2021 report 2.5 max(cosine, 0) with OpenAI's ViT-B/32; ImageReFL's code reports max(cosine, 0). Here the
cosine is the reward unless the options ask for more. A model in open_clip's layout is of kind `open_clip`.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks.options import Options, options
from stages.rewards.networks.transformers_clip import TransformersClip, load_clip

GIVES = Gives(holds=("config.json",), embedding=True, patches=True, text=True, words=True)


class ClipScoreOptions(Options):
    """Options of kind `clipscore`."""

    factor: float = Field(1.0, gt=0, description="factor of the cosine; 2.5 in the paper, 100 in torchmetrics")
    clamp: bool = Field(False, description="negative cosines count as 0, where there is no gradient either")


OPTIONS = ClipScoreOptions


class ClipScore(TransformersClip):
    """A CLIP cosine that may be cut at 0."""

    clamp = False

    def against(self, embeddings: Tensor, texts: Tensor) -> Tensor:
        """Reward [B] of image features [B, D] with text features [B, D]."""
        found = super().against(embeddings, texts)
        return found.clamp(min=0) if self.clamp else found

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        return {**super().describe(), "clamp": self.clamp}


def load(record: ModelRecord, device: torch.device | str = "cpu") -> ClipScore:
    """The reward; raises InputError for a folder that is no CLIPModel."""
    settings = options(record, ClipScoreOptions)
    base = load_clip(record, device, settings)
    made = ClipScore(record.name, base.model, base.preprocess, base.tokenize, settings.factor)
    made.clamp = settings.clamp
    return made
