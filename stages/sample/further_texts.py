"""Texts that strategies embed beside the prompts: concepts of a prompt, say. Each is encoded once per job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from stages.models.conditioning import Conditioning
from stages.models.diffusion import DiffusionModel


@dataclass(frozen=True)
class FurtherTexts:
    """The text encoders of the base; without the sizes that some networks are told besides."""

    model: DiffusionModel
    known: dict[str, Conditioning] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Conditioning:
        """Conditioning [B] on the texts, each encoded by itself, so that it does not depend on the others."""
        for text in dict.fromkeys(texts):
            if text not in self.known:
                self.known[text] = self.model.text.encode([text])[0].to(self.model.device)
        return Conditioning.cat([self.known[text] for text in texts])
