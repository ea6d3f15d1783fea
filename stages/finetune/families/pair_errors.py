"""Denoising errors of images under the policy and under a reference: all that losses on preferences see of networks.

    e(x) = mean (target - policy(x_t, t))^2,  r(x) the same of the reference,  log ratio(x) = r(x) - e(x)

Up to a factor, the log ratio estimates how much more likely than the reference the policy makes image x (Diffusion-DPO,
Wallace et al. 2024, arXiv 2311.12908, equation 14). Both images of a pair have one noise and one timestep, so that
their errors differ by what the images differ in. Errors are means over C, h, w, as in the released code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from stages.finetune import stop
from stages.finetune.batch import LatentPairs
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.processes import ALONE, Processes

Evaluate = Callable[[Tensor, Tensor, Conditioning], Tensor | None]
"""A prediction [B, C, h, w] for noisy latents [B, C, h, w] at timesteps [B], given their text [B]; or None."""


@dataclass(frozen=True)
class Noisy:
    """Noisy latents `x` [B, C, h, w] at timesteps `t` [B], their `text` [B], and the right prediction, `target`.

    `weight` [B] is that of squared errors; None: 1.
    """

    x: Tensor
    t: Tensor
    text: Conditioning
    target: Tensor
    weight: Tensor | None = None

    @classmethod
    def cat(cls, parts: Sequence[Noisy]) -> Noisy:
        """The rows of all parts, which are of one class and have the same fields, one after the other."""
        if len(parts) == 1:
            return parts[0]
        columns = {own.name: [getattr(part, own.name) for part in parts] for own in fields(parts[0])}
        return type(parts[0])(**{name: _cat(column) for name, column in columns.items()})


@dataclass(frozen=True)
class Outputs:
    """Predictions [B, C, h, w] of the policy with gradient and of the reference without (None where there is none), and
    what is right. Each is multiplied by the square root of its image's weight, so that mean squared differences are
    weighted. `anchor` [B] is the mean squared difference of the policy's prediction from the base's, unweighted and
    with gradient, where the method asks for it.
    """

    prediction: Tensor
    reference: Tensor | None
    target: Tensor
    anchor: Tensor | None = None

    @classmethod
    def of(cls, policy: Evaluate, reference: Evaluate | None, noisy: Noisy) -> Outputs:
        """One evaluation of each network on noisy latents."""
        prediction = policy(noisy.x, noisy.t, noisy.text)
        assert prediction is not None
        with torch.no_grad():
            frozen = None if reference is None else reference(noisy.x, noisy.t, noisy.text)
        return cls(prediction, frozen, noisy.target).weighted(noisy.weight)

    def weighted(self, weight: Tensor | None) -> Outputs:
        """The outputs times the root of `weight` [B], so that mean squared differences are multiplied by it; None:
        unchanged.
        """
        if weight is None:
            return self
        root = weight.to(self.prediction).sqrt().reshape(-1, 1, 1, 1)
        reference = None if self.reference is None else root * self.reference
        return replace(self, prediction=root * self.prediction, reference=reference, target=root * self.target)

    def halves(self) -> tuple[Outputs, Outputs]:
        """The first and the second half of the rows."""
        half = len(self.prediction) // 2
        first, second = self.split([half, half])
        return first, second

    def split(self, sizes: Sequence[int]) -> list[Outputs]:
        """The rows in parts of these sizes, one after the other."""
        if len(sizes) == 1:
            return [self]
        none = [None] * len(sizes)
        every = (self.prediction, self.reference, self.target, self.anchor)
        columns = [none if x is None else x.split(list(sizes)) for x in every]
        return [Outputs(*own) for own in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Errors:
    """Denoising errors [N] of images under the policy, with gradient, and under the reference, without (0 where there
    is none). `outputs` are the predictions that they come from.
    """

    policy: Tensor
    base: Tensor
    outputs: Outputs | None = None

    @classmethod
    def of(cls, outputs: Outputs) -> Errors:
        """Means of squared differences over all dimensions but the first."""
        policy = (outputs.prediction - outputs.target).square().mean((1, 2, 3))
        if outputs.reference is None:
            return cls(policy, torch.zeros_like(policy), outputs)
        return cls(policy, (outputs.reference - outputs.target).square().mean((1, 2, 3)), outputs)

    @property
    def log_ratio(self) -> Tensor:
        """The reference's error less the policy's [N]: positive where the policy denoises the image better."""
        return self.base - self.policy

    def made_of(self) -> Outputs:
        """The predictions; raises ValueError where these errors were made without any."""
        if self.outputs is None:
            raise ValueError("these errors have no predictions")
        return self.outputs


@dataclass(frozen=True)
class PairErrors:
    """N pairs: errors of the preferred image of each and of the other one.

    `label` [N] is the probability that the winner is preferred, `weight` [N] that of the pair in the loss. The pairs
    are those of one of `processes`. `further` are margins [N] of the pairs under further networks, without gradient,
    where the method asks for them; None where it asks but not in this step. `anchor` [N] is the mean squared difference
    of the policy's predictions from the base's, with gradient, where the method asks for it.
    """

    winner: Errors
    loser: Errors
    label: Tensor
    weight: Tensor
    processes: Processes = ALONE
    further: tuple[Tensor, ...] | None = ()
    anchor: Tensor | None = None

    @property
    def margin(self) -> Tensor:
        """Log ratio of the winner less that of the loser [N]: 0 at the start, and positive where the policy has learnt
        the preference.
        """
        return self.winner.log_ratio - self.loser.log_ratio

    def margin_under(self, outputs: Outputs) -> Tensor:
        """Margin [N] of the pairs under another network, from its outputs for both images, winners first [2 N]."""
        winner, loser = (Errors.of(side).policy for side in outputs.halves())
        return (self.winner.base - winner) - (self.loser.base - loser)

    def mean(self, values: Tensor) -> Tensor:
        """Mean [] of values [N], each times the weight of its pair."""
        return (self.weight * values).mean()

    def exchanged(self) -> PairErrors:
        """The same pairs with the other image as the winner."""
        return replace(self, winner=self.loser, loser=self.winner)

    def of_all(self, values: Tensor) -> Tensor:
        """Values [N] of these pairs as those of the pairs of all processes, without gradient."""
        return stop.gradient(self.processes.whole([values])[0])


def _cat(column: Sequence[Any]) -> Any:
    if isinstance(column[0], Tensor):
        return torch.cat(list(column))
    if isinstance(column[0], Conditioning):
        return Conditioning.cat(column)
    return None if column[0] is None else tuple(chain.from_iterable(column))


def both(pairs: LatentPairs, text: Conditioning) -> tuple[Tensor, Conditioning]:
    """Clean latents [2 N, C, h, w] of the winners, then of the losers, and their texts."""
    first, second = (text if own is None else own for own in (pairs.winner_text, pairs.loser_text))
    return torch.cat([pairs.winner, pairs.loser]), Conditioning.cat([first, second])


def pair_errors(
    policy: Denoiser, reference: Evaluate | None, pairs: LatentPairs, noise: Tensor, t: Tensor, text: Conditioning
) -> PairErrors:
    """Errors of N pairs, each noised by its `noise` [N, C, h, w] to its timestep t [N] and given its text [N]; one
    evaluation of each network serves both images.
    """
    clean, texts = both(pairs, text)
    noises, times, process = torch.cat([noise, noise]), torch.cat([t, t]), policy.process
    noisy = Noisy(process.noised(clean, noises, times), times, texts, process.target(clean, noises))
    winner, loser = Outputs.of(policy.prediction, reference, noisy).halves()
    return PairErrors(Errors.of(winner), Errors.of(loser), pairs.label, pairs.weight)
