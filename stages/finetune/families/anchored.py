"""Pairs with an anchor: the reference follows the policy, and the policy is held near the base by a penalty of its own.

anchor = mean (policy(x_t) - base(x_t))^2 over both images of a pair
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.pair_errors import Noisy, Outputs, PairErrors
from stages.finetune.families.pair_variants import AnchoredSettings
from stages.finetune.families.preference import PairedPreference

A = TypeVar("A", bound=AnchoredSettings)


class AnchoredPreference(PairedPreference[A]):
    """The objective, with the anchor of every pair in `PairErrors.anchor`."""

    def of_pairs(self, batch: Batch, pairs: LatentPairs, noisy: Noisy, outputs: Outputs) -> PairErrors:
        """Errors of the pairs of a micro-batch, and their anchors."""
        winner, loser = (side.anchor for side in outputs.halves())
        assert winner is not None and loser is not None, "made by `outputs`"
        return replace(super().of_pairs(batch, pairs, noisy, outputs), anchor=(winner + loser) / 2)

    def outputs(self, noisy: Noisy) -> Outputs:
        """The networks' predictions for noisy latents; the base is evaluated where it is not the reference too."""
        bare = Outputs.of(self.run.networks.policy.prediction, self.reference.prediction, replace(noisy, weight=None))
        base = bare.reference
        if self.settings.reference.kind != "frozen":
            with torch.no_grad():
                base = self.run.networks.base.prediction(noisy.x, noisy.t, noisy.text)
        assert base is not None
        anchor = (bare.prediction - base).square().mean((1, 2, 3))
        return replace(bare, anchor=anchor).weighted(noisy.weight)
