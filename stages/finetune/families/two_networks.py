"""Two networks that are trained together (CHATS): one fits the preferred image of every pair, the other the image that
lost. They take part in one loss, and guidance at sampling is away from the second one.

The policy is the one of them that the run saves; the other one is `networks.companion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from stages.finetune.batch import Batch
from stages.finetune.families.pair_errors import Errors, Evaluate, Noisy, Outputs, PairErrors
from stages.finetune.families.pair_variants import TwoNetworkSettings
from stages.finetune.families.preference import PairedPreference
from stages.finetune.objective import Loss
from stages.models.conditioning import Conditioning

W = TypeVar("W", bound=TwoNetworkSettings)


class TwoNetworks(PairedPreference[W]):
    """The objective: winners' errors are those of the one network, losers' those of the other."""

    joins = False  # some micro-batches have prompts for the losers and some have none

    def errors(self, batches: Sequence[Batch]) -> list[PairErrors]:
        """Errors of the pairs of each micro-batch, one after the other."""
        return [self.errors_of(batch) for batch in batches]

    def errors_of(self, batch: Batch) -> PairErrors:
        """Errors of the pairs of a micro-batch; the losers' prompts are left out for all of it or for none."""
        pairs = self.pairs(batch)
        noisy = self.noisy(batch, pairs)
        dropped = batch.rng.random() < self.settings.prompt_drop
        policy, other = self.run.networks.policy.prediction, self.run.networks.paired.prediction
        win, lose = (policy, other) if self.settings.saves == "winner" else (other, policy)
        sides = both_errors(win, lose, self.reference.prediction, noisy, dropped)
        return PairErrors(*sides, pairs.label, pairs.weight, self.run.processes)

    def logged(self, loss: Loss, pairs: PairErrors) -> Loss:
        """The loss with how much larger the errors of the winners under their network, and of the losers under theirs,
        are than the reference's (`winner_drift`, `loser_drift`): both are to fall.
        """
        what = "drift" if self.reference.there else "error"
        terms = {f"winner_{what}": pairs.winner.log_ratio, f"loser_{what}": pairs.loser.log_ratio}
        return Loss(loss.root, {**{name: -value.mean().detach() for name, value in terms.items()}, **loss.terms})


def both_errors(
    win: Evaluate, lose: Evaluate, reference: Evaluate | None, noisy: Noisy, dropped: bool
) -> tuple[Errors, Errors]:
    """Errors of the first half of noisy latents under `win`, and of the second under `lose`; with `dropped` the second
    half's text is all zeros, also for the reference (as released: no prompt is the empty text at sampling only).
    """
    first, second = halves(noisy)
    if dropped:
        second = Noisy(second.x, second.t, second.text.map(torch.zeros_like), second.target, second.weight)
    return Errors.of(Outputs.of(win, reference, first)), Errors.of(Outputs.of(lose, reference, second))


def halves(noisy: Noisy) -> tuple[Noisy, Noisy]:
    """The first and the second half of the rows."""
    count = len(noisy.x) // 2

    def part(rows: slice) -> Noisy:
        weight = None if noisy.weight is None else noisy.weight[rows]
        return Noisy(noisy.x[rows], noisy.t[rows], Conditioning.of(noisy.text)[rows], noisy.target[rows], weight)

    return part(slice(count)), part(slice(count, None))
