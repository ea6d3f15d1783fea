"""Preference between two images of a prompt, by their denoising errors against those of a reference.

A method is the loss of some pairs, from these errors (`pair_errors.py`). What every method of the family may choose has
a file each: the reference, the timesteps, how images are noised, and the safeguard of the winner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch, LatentPairs, optimizer_step
from stages.finetune.families.labels import labelled
from stages.finetune.families.noising import noising_of
from stages.finetune.families.pair_errors import Errors, Noisy, Outputs, PairErrors, both
from stages.finetune.families.pair_settings import PairSettings
from stages.finetune.families.reference import Reference
from stages.finetune.families.safeguard import safeguarded
from stages.finetune.families.timesteps import Timesteps
from stages.finetune.objective import Loss, Objective, Run
from stages.finetune.together import groups, joined
from stages.models.conditioning import Conditioning

P = TypeVar("P", bound=PairSettings)


class PairedPreference(Objective, Generic[P]):
    """The objective; nothing changes from step to step but the policy and, in some settings, the reference."""

    joins: ClassVar[bool] = True
    """Whether micro-batches may be evaluated together, `finetune.gradient_batch` images at once."""

    def __init__(self, settings: P, run: Run, loss: Callable[[PairErrors, P], Loss]) -> None:
        self.settings, self.run, self.loss = settings, run, loss
        self.reference = Reference(settings.reference, run.networks)
        self.timesteps = Timesteps(settings.timesteps, run.networks.policy.process)
        self.noising = noising_of(settings.noising, run.networks.policy)

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The reference as it is in this step."""
        self.reference.advance(optimizer_step(batches))
        return {}

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss of the pairs of each micro-batch."""
        size = self.run.settings.gradient_batch if self.joins else 1
        for places in groups(len(batches), 2 * len(batches[0].prompts), size):
            found = self.errors([batches[place] for place in places])
            yield from joined([self.part(pairs, place) for place, pairs in zip(places, found, strict=True)])

    def part(self, pairs: PairErrors, place: int) -> Loss:
        """The loss of the pairs of micro-batch `place`."""
        held = pairs if self.settings.safeguard is None else safeguarded(pairs, self.settings.safeguard)
        return self.logged(self.loss(held, self.settings), pairs).share(1.0, place)

    def pairs(self, batch: Batch) -> LatentPairs:
        """The pairs of a micro-batch: those of the data, labelled as the settings say."""
        return labelled(batch.preferences(), batch, self.settings.labels, self.run.reward)

    def errors(self, batches: Sequence[Batch]) -> list[PairErrors]:
        """Errors of the pairs of each micro-batch, all from one evaluation of each network."""
        pairs = [self.pairs(batch) for batch in batches]
        noisy = [self.noisy(batch, own) for batch, own in zip(batches, pairs, strict=True)]
        every, sizes = Noisy.cat(noisy), [len(own.x) for own in noisy]
        outputs = self.outputs(every).split(sizes)
        found = [self.of_pairs(*own) for own in zip(batches, pairs, noisy, outputs, strict=True)]
        others = self.further(every)
        if others is None:
            return [replace(own, further=None) for own in found]
        parts = [other.split(sizes) for other in others]
        return [
            replace(own, further=tuple(own.margin_under(part[place]) for part in parts))
            for place, own in enumerate(found)
        ]

    def of_pairs(self, batch: Batch, pairs: LatentPairs, noisy: Noisy, outputs: Outputs) -> PairErrors:
        """Errors of the pairs of a micro-batch, from the networks' predictions for its noisy latents."""
        winner, loser = outputs.halves()
        return PairErrors(Errors.of(winner), Errors.of(loser), pairs.label, pairs.weight, self.run.processes)

    def outputs(self, noisy: Noisy) -> Outputs:
        """The networks' predictions for noisy latents."""
        return Outputs.of(self.run.networks.policy.prediction, self.reference.prediction, noisy)

    def further(self, noisy: Noisy) -> tuple[Outputs, ...] | None:
        """Further networks' predictions for noisy latents, without gradient, for methods that compare margins with
        theirs; None where they do so, but not in this step.
        """
        return ()

    def noisy(self, batch: Batch, pairs: LatentPairs) -> Noisy:
        """Both images of the N pairs noised, winners first: 2 N rows. The timesteps, one per pair, are drawn alike in
        all processes.
        """
        count = len(batch.prompts) * self.run.processes.count
        t = self.timesteps.draw(batch.rng, count)[self.run.processes.part(count)]
        noise = batch.noise.extra("forward")
        clean, texts = both(pairs, Conditioning.of(batch.text))
        noises, times = torch.cat([noise, noise]), torch.cat([t, t])
        found = self.noising(clean, noises, times, texts, lambda s: _inversion_noise(batch, s))
        return Noisy(found.x, found.t, found.text, found.target, self.timesteps.weight(times))

    def logged(self, loss: Loss, pairs: PairErrors) -> Loss:
        """The loss with the family's terms: the share of pairs with a positive margin (`accuracy`), the mean `margin`,
        and how much larger the errors of winners and losers are than the reference's (`winner_drift`, `loser_drift`:
        with the known failure of these losses both rise). Without a reference they are the errors themselves
        (`winner_error`, `loser_error`).
        """
        what = "drift" if self.reference.there else "error"
        terms = {
            "accuracy": (pairs.margin > 0).float().mean(),
            "margin": pairs.margin.mean(),
            f"winner_{what}": -pairs.winner.log_ratio.mean(),
            f"loser_{what}": -pairs.loser.log_ratio.mean(),
        }
        return Loss(loss.root, {**{name: term.detach() for name, term in terms.items()}, **loss.terms})

    def state_dict(self) -> dict[str, Any]:
        """The reference's weights, where they change."""
        return self.reference.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.reference.load_state_dict(state)


def _inversion_noise(batch: Batch, s: int) -> Tensor:
    """The noise of inversion step s for the winners and the losers, which differ in it."""
    return torch.cat([batch.noise.extra(f"inversion {s}"), batch.noise.extra(f"inversion {s} loser")])
