"""Noise optimisation: x_T moves along gradients of rewards, through all sampling steps, the decoder and the rewards.

The draws of later steps stay as they are, so the image is a function of x_T, with a random sampler too. Every image is
by itself: norms, clipping and the choice of the best iteration are per row, so they do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from stages.sample.context import Context
from stages.sample.judged import gradient_of

if TYPE_CHECKING:
    from stages.sample.noise_search import NoiseSearch

SMOOTHING = 0.01  # eps of Adam in ReNO's code
CLIPPED = 1e-6  # what torch's clipping adds to a norm


@dataclass(frozen=True)
class ScoredNoise:
    """One iteration of B images with R rewards: noise `z` [B, C, h, w], its images [B, 3, H, W], the losses of the
    rewards [B, R], 0 where one is not asked, the loss `total` [B] that is compared and the regulariser [B].

    `gradients` [P, B, C, h, w] of the noise, before clipping: one, or one of each reward; without any in the last
    iteration. `step` [B, C, h, w] is what the noise moves by, before the optimiser.
    """

    z: Tensor
    images: Tensor
    losses: Tensor
    total: Tensor
    regulariser: Tensor
    gradients: Tensor
    step: Tensor


@dataclass(frozen=True)
class Best:
    """The best of the iterations so far: images [B, 3, H, W], loss [B] and the number of the iteration [B], from 0."""

    images: Tensor
    loss: Tensor
    iteration: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Best]) -> Best:
        """The rows of all parts, one after the other."""
        columns = ([getattr(part, name) for part in parts] for name in ("images", "loss", "iteration"))
        return parts[0] if len(parts) == 1 else cls(*map(torch.cat, columns))

    def or_better(self, found: Best) -> Best:
        """The one with the lower loss, row by row; this one of equal ones."""
        lower = found.loss < self.loss
        images = torch.where(lower[:, None, None, None], found.images, self.images)
        iteration = torch.where(lower, found.iteration, self.iteration)
        return Best(images, torch.where(lower, found.loss, self.loss), iteration)


Told = Callable[[ScoredNoise], None]


def optimised(ctx: Context, search: NoiseSearch, count: int, told: Told = lambda scored: None) -> Best:
    """The best of `count` iterations of the rows of `ctx`, at most `batch_size` at a time; `told` is called with each
    iteration of these.

    Iteration 0 is plain sampling. The last one is scored without gradient, since no step follows it.
    """
    best = [_optimised(part, search, count, told) for _, part in ctx.parts()]
    return Best.cat(best)


def _optimised(ctx: Context, search: NoiseSearch, count: int, told: Told) -> Best:
    z = ctx.noise.initial().clone()
    optimiser, best = _optimiser(search, z), None
    for number in range(count):
        scored = score_noise(ctx, search, z, last=number == count - 1)
        told(scored)
        found = Best(scored.images, scored.total, torch.full((len(z),), number, device=z.device))
        best = found if best is None else best.or_better(found)
        if len(scored.gradients):
            z.grad = scored.step
            optimiser.step()
    assert best is not None, "at least one iteration"
    return best


def score_noise(ctx: Context, search: NoiseSearch, z: Tensor, last: bool = False) -> ScoredNoise:
    """The images of noise z [B, C, h, w], their losses, and the gradients with respect to z except in the `last` one.

    At most `batch_size` rows at a time, as in `Context.gradient`: the graph of a batch is freed before the next.
    """
    parts = [_score_noise(part, search, z[rows].detach().clone(), last) for rows, part in ctx.parts()]
    along = {"gradients": 1}
    fields = {name: torch.cat([getattr(part, name) for part in parts], along.get(name, 0)) for name in FIELDS}
    return ScoredNoise(**fields)


FIELDS = ("z", "images", "losses", "total", "regulariser", "gradients", "step")


def _score_noise(ctx: Context, search: NoiseSearch, z: Tensor, last: bool) -> ScoredNoise:
    names = search.rewards()
    wanted = [search.weights_for(prompt) for prompt in ctx.prompts]
    weights = torch.tensor([[each.get(name, 0.0) for name in names] for each in wanted], device=z.device)
    with torch.set_grad_enabled(not last):
        z.requires_grad_(not last)
        images = ctx.decode(search.steps(ctx).finish(z))
        losses = [_loss(ctx, search, images, name, weights[:, n] > 0) for n, name in enumerate(names)]
        away = regulariser(z, search.regularise)
        terms = [weights[:, n] * loss for n, loss in enumerate(losses)]
        sums = [term + away * (weights[:, n] > 0) for n, term in enumerate(terms)]
        parts = sums if search.clip_each else [torch.stack(terms).sum(0) + away]
        gradients = z.new_zeros(0, *z.shape) if last else _gradients(parts, z)
    each = torch.stack([loss.detach() for loss in losses], 1)
    summed = torch.tensor([[search.summed(each) for each in row] for row in weights.tolist()], device=z.device)
    step = clipped(gradients, search.clip).sum(0) if search.clip_each else gradients.sum(0)
    return ScoredNoise(
        z.detach(), images.detach(), each, (summed * each).sum(1), away.detach(), gradients,
        clipped(step[None], search.clip)[0],
    )  # fmt: skip


def _loss(ctx: Context, search: NoiseSearch, images: Tensor, name: str, wanted: Tensor) -> Tensor:
    """top - slope R [B] of a reward; it is asked about the rows that want it, and 0 for the others."""
    rows = wanted.nonzero().flatten()
    if len(rows) == 0:
        return images.new_zeros(len(images))
    scores = ctx.take(rows.tolist()).score(images[rows], name)
    losses = (search.top - search.slope * scores).to(images.dtype)
    return images.new_zeros(len(images)).index_put((rows,), losses)


def _gradients(parts: Sequence[Tensor], z: Tensor) -> Tensor:
    """Gradients [P, B, C, h, w] of the losses [B], one after the other through one graph."""
    last = len(parts) - 1
    return torch.stack([gradient_of(loss, z, keep=n < last) for n, loss in enumerate(parts)])


def regulariser(z: Tensor, factor: float) -> Tensor:
    """factor (|z|^2 / 2 - (d - 1) log |z|) [B] of noise z [B, C, h, w] of d numbers per image.

    The negative log density of the norm of d standard normal numbers, but for a constant (Samuel et al. 2023, arXiv
    2306.08687).
    """
    squares = z.flatten(1).square().sum(1)
    return factor * (squares - (z[0].numel() - 1) * squares.log()) / 2


def clipped(gradients: Tensor, largest: float) -> Tensor:
    """Gradients [P, B, C, h, w], each row of each scaled down to the norm `largest` where its norm is above it."""
    norms = gradients.flatten(2).norm(dim=2)
    return gradients * (largest / (norms + CLIPPED)).clamp(max=1.0)[..., None, None, None]


def _optimiser(search: NoiseSearch, z: Tensor) -> Optimizer:
    """Works number by number, so that rows stay apart."""
    if search.optimiser == "adam":
        return Adam([z], lr=search.rate, eps=SMOOTHING)
    return SGD([z], lr=search.rate, momentum=search.momentum, nesterov=True)
