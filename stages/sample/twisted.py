"""Twisted sequential Monte Carlo: particles whose steps are shifted by a gradient of the reward, weighed for it.

All sums are over B populations of N particles: latents [B * N, C, h, w], weights [B, N] as logarithms in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.models.process import Gaussian
from stages.sample.particles import Final, Populations, effective_size, rows, themselves
from stages.sample.resampling import RESAMPLERS
from stages.sample.stepping import Predicted, Steps

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.strategies.das import Settings


@dataclass(frozen=True)
class Weighed:
    """Particles before the step of index i: rewards, the twist and the growth of the weights [B, N], the effective
    sample size and whether it is resampled [B], ancestors and the weights after that, the gradient `guidance` of the
    next twist, predicted clean latents, and the latents of the ancestors.
    """

    i: int
    rewards: Tensor
    twist: Tensor
    growth: Tensor
    size: Tensor
    due: Tensor
    ancestors: Tensor
    after: Tensor
    guidance: Tensor
    x0: Tensor
    x: Tensor


@dataclass(frozen=True)
class Weights:
    """The last weights [B, N], and the effective sample size [B] of them."""

    logs: Tensor
    size: Tensor


Told = Callable[[Weighed], None]


def twisted(start: Populations, search: Settings, told: Told = lambda weighed: None) -> tuple[Final, Weights]:
    """The last particles, not resampled, and their weights.

    With r the reward of the predicted clean latents and lambda_i the tempered strength, a particle's weight grows by
    p / q of the step that led to it, times exp(lambda_i r) over that of the step before; its next step is shifted by
    its variance times lambda_(i + 1) grad r.
    """
    wide, count, first = start.wide, start.particles, start.wide.indices[0]
    steps, resampler = search.steps(wide), RESAMPLERS[search.resampler]
    x = wide.initial()
    weights = torch.zeros(len(start.ctx), count, dtype=torch.float64, device=x.device)
    before, ratio, final_scores = torch.zeros_like(weights), torch.zeros_like(weights), weights
    for i in wide.indices:
        predicted, rewards, gradient = _scored(search, wide, x, i)
        scores = rewards.view(-1, count)
        twist = search.tempered(i - first) * search.strength * scores.double()
        guidance = search.ahead(i - first) * search.strength * gradient
        growth = ratio + twist - before
        weights = weights + growth
        size = effective_size(weights)
        due = size < search.threshold * count
        drawn = resampler.ancestors(weights, start.ctx.noise.uniform(f"resample {i}", resampler.uniforms(count)))
        ancestors = torch.where(due[:, None], drawn, themselves(scores))
        weights = torch.where(due[:, None], torch.zeros_like(weights), weights).log_softmax(1)
        kept = rows(ancestors, count)
        found = predicted.take(kept)
        told(Weighed(i, scores, twist, growth, size, due, ancestors, weights, guidance, steps.x0(predicted), found.x))
        if not search.as_released.stay:
            guidance, twist = guidance[kept], twist.gather(1, ancestors)
        x, ratio = _shifted(steps, found, guidance, count)
        before, final_scores = twist, scores.gather(1, ancestors)
    if steps.noisy_end:
        final_scores = search.score(wide, x).view(-1, count)
    weights = weights + ratio + search.strength * final_scores.double() - before
    return Final(x, final_scores), Weights(weights, effective_size(weights))


def _scored(search: Settings, wide: Context, x: Tensor, i: int) -> tuple[Predicted, Tensor, Tensor]:
    """The prediction at index i, the reward [B * N] of its clean latents, and its gradient in the latents."""
    made: list[Predicted] = []

    def score(part: Context, latents: Tensor) -> Tensor:
        steps = search.steps(part)
        predicted = steps.at(latents, i)
        made.append(Predicted(i, predicted.x.detach(), predicted.prediction.detach()))
        return part.score(part.decode(steps.x0(predicted)), search.reward)

    rewards, gradient = wide.gradient(x, score)
    return (
        Predicted(
            i, torch.cat([predicted.x for predicted in made]), torch.cat([predicted.prediction for predicted in made])
        ),
        rewards,
        gradient,
    )


def _shifted(steps: Steps, predicted: Predicted, guidance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Latents entering the next index, drawn with a mean that is shifted by v guidance, and log p - log q [B, N] of the
    draw without and with the shift: with z the draw, -(v |guidance|^2 / 2 + sqrt(v) guidance z).
    """
    law = steps.law(predicted)
    if law is None:
        return steps.after(predicted), torch.zeros(
            len(predicted.x) // count, count, dtype=torch.float64, device=predicted.x.device
        )
    noise = steps.ctx.noise_at(predicted.i).step(predicted.i)
    x = Gaussian(law.mean + law.std.square() * guidance, law.std).sample(noise)
    terms = law.std.square() * guidance.square() / 2 + law.std * guidance * noise
    return x, -terms.double().flatten(1).sum(1).view(-1, count)
