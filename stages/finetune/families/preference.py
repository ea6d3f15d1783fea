"""Preference between two images of a prompt, by their denoising errors against those of the frozen base.

    e(x) = mean (target - policy(x_t, t))^2,  r(x) the same of the base,  log ratio(x) = r(x) - e(x)

Up to a factor, the log ratio estimates how much more likely than the base the policy makes image x (Diffusion-DPO,
Wallace et al. 2024, arXiv 2311.12908, equation 14). Both images of a pair have one noise and one timestep, so that
their errors differ by what the images differ in. Errors are means over C, h, w, as in the released code.

A method is the loss of some pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.settings import PairSettings
from stages.finetune.objective import Loss, Objective, Run
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser

P = TypeVar("P", bound=PairSettings)


@dataclass(frozen=True)
class Errors:
    """Denoising errors [N] of images under the policy, with gradient, and under the base, without."""

    policy: Tensor
    base: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """base - policy [N]: positive where the policy denoises the image better than the base does."""
        return self.base - self.policy


@dataclass(frozen=True)
class PairErrors:
    """N pairs: errors of the preferred image of each and of the other one.

    `label` [N] is the probability that the winner is preferred, `weight` [N] that of the pair in the loss.
    """

    winner: Errors
    loser: Errors
    label: Tensor
    weight: Tensor

    @property
    def margin(self) -> Tensor:
        """Log ratio of the winner less that of the loser [N]: 0 at the start, and positive where the policy has learnt
        the preference.
        """
        return self.winner.log_ratio - self.loser.log_ratio

    def mean(self, values: Tensor) -> Tensor:
        """Mean [] of values [N], each times the weight of its pair."""
        return (self.weight * values).mean()


class PairedPreference(Objective, Generic[P]):
    """The objective; nothing changes from step to step but the policy."""

    def __init__(self, settings: P, run: Run, loss: Callable[[PairErrors, P], Loss]) -> None:
        self.settings, self.run, self.loss = settings, run, loss

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss of the pairs of each micro-batch."""
        for place, batch in enumerate(batches):
            pairs = self.errors(batch)
            yield self.logged(self.loss(pairs, self.settings), pairs).share(1.0, place)

    def errors(self, batch: Batch) -> PairErrors:
        """Errors of the pairs of a micro-batch, whose timesteps all processes draw alike."""
        networks, processes = self.run.networks, self.run.processes
        count = len(batch.prompts) * processes.count
        t = networks.grid.process.random_timesteps(batch.rng, count)[processes.part(count)]
        noise, text = batch.noise.extra("forward"), Conditioning.of(batch.text)
        return pair_errors(networks.policy, networks.base, batch.preferences(), noise, t, text)

    def logged(self, loss: Loss, pairs: PairErrors) -> Loss:
        """The loss with the family's terms: the share of pairs with a positive margin (`accuracy`), the mean `margin`,
        and how much larger the errors of winners and losers are than the base's (`winner_drift`, `loser_drift`: with
        the known failure of these losses both rise).
        """
        terms = {
            "accuracy": (pairs.margin > 0).float().mean(),
            "margin": pairs.margin.mean(),
            "winner_drift": -pairs.winner.log_ratio.mean(),
            "loser_drift": -pairs.loser.log_ratio.mean(),
        }
        return Loss(loss.root, {**{name: term.detach() for name, term in terms.items()}, **loss.terms})


def pair_errors(
    policy: Denoiser, base: Denoiser, pairs: LatentPairs, noise: Tensor, t: Tensor, text: Conditioning
) -> PairErrors:
    """Errors of N pairs, each noised by its `noise` [N, C, h, w] to its timestep t [N] and given its text [N]; one
    evaluation of each network serves both images.
    """
    both, noises, times = torch.cat([pairs.winner, pairs.loser]), torch.cat([noise, noise]), torch.cat([t, t])
    texts, process = Conditioning.cat([text, text]), policy.process
    x, target = process.noised(both, noises, times), process.target(both, noises)

    def errors(network: Denoiser) -> tuple[Tensor, ...]:
        return (network.prediction(x, times, texts) - target).square().mean((1, 2, 3)).chunk(2)

    own = errors(policy)
    with torch.no_grad():
        frozen = errors(base)
    return PairErrors(Errors(own[0], frozen[0]), Errors(own[1], frozen[1]), pairs.label, pairs.weight)
