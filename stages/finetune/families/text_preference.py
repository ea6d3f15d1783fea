"""Preference between captions: of one image its own and another one, or of two images the caption of each.

No preference data is needed for one image. The papers have a language model change the caption; here the other caption
is drawn from the training set, or comes with curated pairs, whose captions a rule or a model has perturbed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.pair_variants import DualCaptionSettings, TextPairSettings
from stages.finetune.families.preference import PairedPreference
from stages.models.conditioning import Conditioning
from stages.processes import Processes

T = TypeVar("T", bound=TextPairSettings)
S = TypeVar("S", bound=DualCaptionSettings)

DRAWN = 4
"""Captions that are drawn for each image, of which the first that differs from its own is taken."""


class TextPreference(PairedPreference[T]):
    """The objective on such pairs: both images of a pair are the same, their texts differ."""

    def pairs(self, batch: Batch) -> LatentPairs:
        """Real latents with their caption and with another one; an image whose draws all equal its own caption has it
        twice, and so no gradient. Of curated pairs, the preferred image with the captions of both.
        """
        if self.settings.captions == "curated":
            found = captioned(batch.preferences())
            return replace(found, loser=found.winner)
        clean, ones = batch.real(), torch.ones_like(batch.real()[:, 0, 0, 0])
        return LatentPairs(clean, clean, ones, ones, self.other_captions(batch))

    def other_captions(self, batch: Batch) -> Conditioning:
        """The other caption [B] of every row."""
        return other_captions(batch, self.run.processes)


class DualCaptions(PairedPreference[S]):
    """The objective on curated pairs whose losers have another caption than the winners (DCPO).

    The paper writes a caption for each image, and perturbs that of the loser; where the data has none, the winner has
    the prompt of the pair and the loser another training prompt.
    """

    def pairs(self, batch: Batch) -> LatentPairs:
        """The pairs of the data, as the settings label them, with their captions or with other ones of the losers."""
        if self.settings.captions == "curated":
            return captioned(super().pairs(batch))
        return replace(super().pairs(batch), loser_text=other_captions(batch, self.run.processes))


def captioned(pairs: LatentPairs) -> LatentPairs:
    """The pairs with the captions of their images as texts; raises ValueError where they have none."""
    if pairs.captions is None:
        raise ValueError("these pairs have no captions: the method does not declare that it needs them")
    winner, loser = pairs.captions
    return replace(pairs, winner_text=winner, loser_text=loser)


def other_captions(batch: Batch, processes: Processes) -> Conditioning:
    """Another caption [B] for every row than its own, drawn for the rows of all processes alike; its own one where all
    draws equal it.
    """
    if batch.further is None:
        raise ValueError("this micro-batch has no further captions")
    count = len(batch.prompts)
    drawn = batch.further(0, DRAWN * count * processes.count)
    own, others, first = Conditioning.of(batch.text), Conditioning.of(drawn.text), count * processes.rank
    both, chosen = Conditioning.cat([own, others]), []
    for row, prompt in enumerate(batch.prompts):
        places = range(DRAWN * (first + row), DRAWN * (first + row + 1))
        chosen.append(next((count + n for n in places if drawn.prompts[n] != prompt), row))
    return both[chosen]
