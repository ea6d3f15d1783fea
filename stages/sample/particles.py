"""The loop of particle methods (sequential Monte Carlo), and parts that they weigh, resample and choose with.

Everything is per image: B images with N particles each. Latents of all particles are [B * N, C, h, w], the particles of
an image next to one another, as `Context.branch` makes them; weights, scores and ancestors are [B, N].
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.sample.search import Found

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Search, Steering


@dataclass(frozen=True)
class Populations:
    """B populations of N particles: `ctx` has a row for each population, `wide` one for each particle.

    `runs` are the images of each population, one where every image has a search of its own; particle j is then drawn
    with the noise of image j % len(run) and charged to it.
    """

    ctx: Context
    wide: Context
    particles: int
    runs: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, ctx: Context, particles: int) -> Populations:
        """A population for every image."""
        return cls(ctx, ctx.branch(particles), particles)

    @classmethod
    def of_prompts(cls, ctx: Context, particles: int) -> Populations:
        """A population for every run of neighbouring images of one prompt."""
        runs: list[list[int]] = []
        for row, prompt in enumerate(ctx.prompts):
            if row and prompt == ctx.prompts[row - 1]:
                runs[-1].append(row)
            else:
                runs.append([row])
        places = [(run[j % len(run)], j // len(run)) for run in runs for j in range(particles)]
        wide = ctx.place([row for row, _ in places], [number for _, number in places])
        return cls(ctx.take([run[0] for run in runs]), wide, particles, runs)

    def result(self, final: Final, chosen: Tensor) -> Found:
        """A row for each image asked for: those of the `chosen` particles [B], or all of the run's."""
        if not self.runs:
            return final.found(rows(chosen[:, None], self.particles))
        first = self.particles
        kept = [n * first + j % first for n, run in enumerate(self.runs) for j in range(len(run))]
        return final.found(torch.tensor(kept, device=chosen.device))


@dataclass(frozen=True)
class Final:
    """The last particles: latents [B * N, C, h, w] and rewards [B, N]. Which of them is the result depends on all
    rewards, so no images of them are kept: that of the result is decoded again.
    """

    x: Tensor
    scores: Tensor

    def found(self, kept: Tensor) -> Found:
        """The kept particles, by their rows."""
        return Found(self.x[kept])


def steer(
    ctx: Context, search: Search, particles: int, events: Collection[int], steering: Steering, one_run: bool = False
) -> Found:
    """For each row of `ctx` the result of `particles` particles; with `one_run` the images of a prompt are
    particles of one population.

    They are judged after the steps in `events`, among which the last one is.
    """
    populations = (Populations.of_prompts if one_run else Populations.of)(ctx, particles)
    final = evolve(populations, search, events, steering)
    return populations.result(final, steering.result(final.scores, populations.ctx.noise.uniform("result", 1)))


def evolve(populations: Populations, search: Search, events: Collection[int], steering: Steering) -> Final:
    """All steps of all particles; those of the end have been resampled."""
    wide, particles = populations.wide, populations.particles
    steps, x, scores = search.steps(wide), wide.initial(), None
    for i in wide.indices:
        x, x0 = steering.propose(steps, x, i)
        if i not in events:
            continue
        scores = search.score(wide, x0).view(-1, particles)
        ancestors = steering.select(i, scores, populations.ctx.noise.uniform(f"resample {i}", particles))
        kept = rows(ancestors, particles)
        x, scores = x[kept], scores.gather(1, ancestors)
    assert scores is not None, "the last step is an event"
    return Final(x, scores)


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
