"""Preference pairs whose policy is told who judged them; the reference is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import Tensor

from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.pair_errors import Noisy, Outputs, PairErrors
from stages.finetune.families.pair_variants import PersonalSettings
from stages.finetune.families.preference import PairedPreference
from stages.finetune.objective import Loss, Run
from stages.models.annotators import attach
from stages.models.conditioning import Conditioning

U = TypeVar("U", bound=PersonalSettings)


@dataclass(frozen=True)
class ToldNoisy(Noisy):
    """Noisy latents with the annotator of each row, empty where the policy is told of none."""

    names: tuple[str, ...] = ()


class Personal(PairedPreference[U]):
    """The objective; the policy's network gets a part that is told about annotators, which is trained with it."""

    def __init__(self, settings: U, run: Run, loss: Callable[[PairErrors, U], Loss]) -> None:
        super().__init__(settings, run, loss)
        network, width = run.networks.policy.network, run.networks.empty.text.shape[-1]
        self.annotators = attach(network, width, settings.codes)

    def noisy(self, batch: Batch, pairs: LatentPairs) -> ToldNoisy:
        """The noisy latents, each with the annotator of its pair; a share of pairs, drawn alike in all processes, has
        none, so that the policy also learns what all annotators have in common.
        """
        plain = super().noisy(batch, pairs)
        count = len(batch.prompts) * self.run.processes.count
        drawn = [batch.rng.random() for _ in range(count)][self.run.processes.part(count)]
        names = ["" if u < self.settings.drop else name for u, name in zip(drawn, pairs.annotators, strict=True)]
        return ToldNoisy(**vars(plain), names=(*names, *names))

    def outputs(self, noisy: Noisy) -> Outputs:
        """The policy is told who judged, the reference is not."""
        assert isinstance(noisy, ToldNoisy), "made by `noisy`"
        return Outputs.of(partial(self._told, noisy.names), self.reference.prediction, noisy)

    def _told(self, names: tuple[str, ...], x: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        return self.run.networks.policy.prediction(x, t, self.annotators.told(text, names))
