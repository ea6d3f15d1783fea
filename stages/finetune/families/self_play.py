"""Pairs of self-play: the winner is a real image, the loser an image that the reference samples for its caption."""

from __future__ import annotations

from dataclasses import replace

import torch

from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.preference import P, PairedPreference


class SelfPlay(PairedPreference[P]):
    """The objective on such pairs: the reference is the base or an earlier policy."""

    def pairs(self, batch: Batch) -> LatentPairs:
        """Real latents, and the end of a rollout by the reference from the noise of the row."""
        winner, ones = batch.real(), torch.ones_like(batch.real()[:, 0, 0, 0])
        networks, end = self.run.networks, len(self.run.networks.grid)
        x = batch.noise.initial()
        if self.reference.earlier is None:
            loser = replace(networks, policy=networks.base).rollout(batch, x, 0, end)
        else:
            with self.reference.earlier.in_place():
                loser = networks.rollout(batch, x, 0, end)
        return LatentPairs(winner, loser.to(winner), ones, ones)
