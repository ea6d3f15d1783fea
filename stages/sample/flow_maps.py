"""Particles steered along a flow map: weights grow by the reward of where the deterministic flow ends.

With t the flow's time, from 0 (noise) to 1 (image), and X the map from latents at t to the image that the flow leads
to, particles follow the law tilted by exp(t lambda r(X)): a step of variance v is shifted by v / 2 times the gradient
of t lambda r(X), and the log weight grows by lambda r(X) dt. The first weight is exp(t lambda r(X)) at the time t of
the start. Sums are over B populations of N particles, as in `particles.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.models.process import Gaussian, Grid
from stages.sample.particles import Final, Populations, effective_size, multinomial, rows, themselves
from stages.sample.stepping import Predicted

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.strategies.fmtt import Settings


@dataclass(frozen=True)
class Moment:
    """Where a grid's index lies on the flow: x = total ((1 - time) n + time x_0) for noise n and clean latents x_0."""

    time: float
    total: float


@dataclass(frozen=True)
class Mapped:
    """Particles at index i: where the flow leads, `ends` [B * N, C, h, w], their rewards [B, N], the log weights
    before and after they are resampled [B, N], who is resampled [B], ancestors [B, N], and the latents `after` the
    step [B * N, C, h, w].
    """

    i: int
    ends: Tensor
    rewards: Tensor
    weights: Tensor
    kept: Tensor
    due: Tensor
    ancestors: Tensor
    after: Tensor


Told = Callable[[Mapped], None]


def mapped(start: Populations, search: Settings, told: Told = lambda found: None) -> tuple[Final, Tensor]:
    """The last particles and their log weights [B, N], which are not resampled at the end."""
    wide, count, first = start.wide, start.particles, start.wide.indices[0]
    steps, moments = search.steps(wide), moments_of(wide.grid)
    x, scores = wide.initial(), torch.zeros(len(start.ctx), count, device=wide.grid.timesteps.device)
    weights = torch.zeros_like(scores, dtype=torch.float64)
    before = 0.0  # the time up to which weights have grown
    for i in wide.indices:
        predicted, ends, found, gradient = _scored(search, wide, x, i)
        scores = found.view(-1, count)
        if i == first:
            weights = weights + search.strength * moments[first].time * scores.double()
            before = moments[first].time
        grown = weights + search.strength * (moments[i + 1].time - before) * scores.double()
        before = moments[i + 1].time
        due = effective_size(grown) < search.threshold * count
        ancestors = multinomial(grown, start.ctx.noise.uniform(f"resample {i}", count))
        ancestors = torch.where(due[:, None], ancestors, themselves(scores))
        kept = rows(ancestors, count)
        predicted, gradient, scores = predicted.take(kept), gradient[kept], scores.gather(1, ancestors)
        law = steps.law(predicted)
        if law is None:
            x = steps.after(predicted)
        else:
            shift = _shift(law, moments[i], moments[i + 1], search.strength * gradient)
            x = Gaussian(law.mean + shift, law.std).sample(wide.noise_at(i).step(i))
        weights = torch.where(due[:, None], torch.zeros_like(grown), grown)
        told(Mapped(i, ends, found.view(-1, count), grown, weights, due, ancestors, x))
    return Final(x, scores), weights


def _scored(search: Settings, wide: Context, x: Tensor, i: int) -> tuple[Predicted, Tensor, Tensor, Tensor]:
    """The prediction at index i, the ends of the flow, their rewards [B * N] and the gradients of these in x."""
    made: list[tuple[Predicted, Tensor]] = []

    def score(part: Context, latents: Tensor) -> Tensor:
        steps = search.steps(part)
        x = latents if steps.enter is None else steps.enter(latents, i)
        with torch.set_grad_enabled(search.flow_map is None):  # where a flow map is given, ends do not depend on it
            predicted = Predicted(i, x, steps.predict(x, i))
        end = search.end_of(part, predicted)
        made.append((Predicted(i, predicted.x.detach(), predicted.prediction.detach()), end.detach()))
        return part.score(part.decode(end), search.reward)

    rewards, gradient = wide.gradient(x, score)
    predicted = Predicted(i, torch.cat([each.x for each, _ in made]), torch.cat([each.prediction for each, _ in made]))
    return predicted, torch.cat([end for _, end in made]), rewards, gradient


def _shift(law: Gaussian, now: Moment, after: Moment, gradient: Tensor) -> Tensor:
    """v / 2 times the gradient of t r, for a step whose ends are scaled by `total`."""
    return law.std.square() / 2 * now.time * (now.total / after.total) * gradient


def moments_of(grid: Grid) -> list[Moment]:
    """Of every index, and of clean latents."""
    one = torch.ones(1, dtype=torch.float64, device=grid.timesteps.device)
    zero = torch.zeros_like(one)
    found = []
    for i in range(len(grid)):
        clean, noise = float(grid.noised(one, zero, i)), float(grid.noised(zero, one, i))
        found.append(Moment(clean / (clean + noise), clean + noise))
    return [*found, Moment(1.0, 1.0)]
