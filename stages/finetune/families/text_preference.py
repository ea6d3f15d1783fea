"""Preference between two captions of one image: its own, and one that belongs to another training image.

No preference data is needed. The papers have a language model change the caption; here the other caption is drawn from
the training set.
"""

from __future__ import annotations

import torch

from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.preference import P, PairedPreference
from stages.models.conditioning import Conditioning

DRAWN = 4
"""Captions that are drawn for each image, of which the first that differs from its own is taken."""


class TextPreference(PairedPreference[P]):
    """The objective on such pairs: both images of a pair are the same, their texts differ."""

    def pairs(self, batch: Batch) -> LatentPairs:
        """Real latents with their caption and with another one; an image whose draws all equal its own caption has it
        twice, and so no gradient.
        """
        clean, ones = batch.real(), torch.ones_like(batch.real()[:, 0, 0, 0])
        return LatentPairs(clean, clean, ones, ones, self.other_captions(batch))

    def other_captions(self, batch: Batch) -> Conditioning:
        """The other caption [B] of every row, drawn for the rows of all processes alike."""
        if batch.further is None:
            raise ValueError("this micro-batch has no further captions")
        count, processes = len(batch.prompts), self.run.processes
        drawn = batch.further(0, DRAWN * count * processes.count)
        own, others, first = Conditioning.of(batch.text), Conditioning.of(drawn.text), count * processes.rank
        both, chosen = Conditioning.cat([own, others]), []
        for row, prompt in enumerate(batch.prompts):
            places = range(DRAWN * (first + row), DRAWN * (first + row + 1))
            chosen.append(next((count + n for n in places if drawn.prompts[n] != prompt), row))
        return both[chosen]
