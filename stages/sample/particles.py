"""The loop of particle methods (sequential Monte Carlo), and parts that they weigh, resample and choose with.

Everything is per image: B images with N particles each. Latents of all particles are [B * N, C, h, w], the particles of
an image next to one another, as `Context.branch` makes them; weights, scores and ancestors are [B, N].
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Search, Steering


def steer(ctx: Context, search: Search, particles: int, events: Collection[int], steering: Steering) -> Tensor:
    """Images [B, 3, H, W] of the rows of `ctx`, each the result of `particles` particles.

    They are judged after the steps in `events`, among which the last one is.
    """
    wide, last = ctx.branch(particles), len(ctx.grid) - 1
    steps, x = search.steps(wide), wide.noise.initial()
    images, scores = x, x
    for i in range(last + 1):
        x, x0 = steering.propose(steps, x, i)
        if i not in events:
            continue
        images = wide.decode(x0)
        scores = wide.score(images, search.reward).view(len(ctx), particles)
        ancestors = steering.select(i, scores, ctx.noise.uniform(f"resample {i}", particles))
        kept = rows(ancestors, particles)
        x, images, scores = x[kept], images[kept], scores.gather(1, ancestors)
    chosen = steering.result(scores, ctx.noise.uniform("result", 1))
    return images[rows(chosen[:, None], particles)]


def effective_size(log_weights: Tensor) -> Tensor:
    """Effective sample size [B] of log weights [B, N]: 1 / sum of squared shares, from 1 to N."""
    return 1 / log_weights.double().softmax(1).square().sum(1)


def multinomial(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Ancestors [B, M] int64, drawn independently in proportion to the weights, by uniforms [B, M] in [0, 1).

    Each is the first particle of log weights [B, N] whose cumulative share exceeds its uniform.
    """
    cumulative = log_weights.double().softmax(1).cumsum(1)
    found = torch.searchsorted(cumulative, uniforms.to(cumulative).contiguous(), right=True)
    return found.clamp(max=log_weights.shape[1] - 1)  # the last cumulative share may be a rounding below 1


def themselves(scores: Tensor) -> Tensor:
    """Ancestors [B, N] of particles that go on from themselves, for anything of that shape."""
    return torch.arange(scores.shape[1], device=scores.device).expand_as(scores)


def best(scores: Tensor) -> Tensor:
    """The particle [B] int64 with the highest of the scores [B, N]; the first of equal ones."""
    highest = scores == scores.amax(1, keepdim=True)  # argmax may return any of equal ones
    return torch.where(highest, themselves(scores), scores.shape[1]).amin(1)


def rows(ancestors: Tensor, particles: int) -> Tensor:
    """Where ancestors [B, M] among `particles` per image stand in the latents of all particles: int64 [B * M]."""
    first = torch.arange(len(ancestors), device=ancestors.device)[:, None] * particles
    return (first + ancestors).flatten()
