"""Searches that draw several candidates from one state, keep the best every few steps, and go on from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.sample import particles
from stages.sample.search import Found

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Search


@dataclass(frozen=True)
class Choice:
    """One choice among N candidates of each of B images: latents `x` entering index i (T: clean latents) and predicted
    clean latents `x0`, both [B * N, C, h, w], rewards [B, N], and the best [B].
    """

    i: int
    x: Tensor
    x0: Tensor
    scores: Tensor
    chosen: Tensor


Told = Callable[[Choice], None]


def best_of_blocks(
    ctx: Context, search: Search, count: int, block: int, shared: bool, told: Told = lambda choice: None
) -> Found:
    """The best candidate of each row of `ctx`.

    `count` candidates of each begin at one x_T (`shared`) or at one each. After every `block` steps, and after the
    last one, all go on from the one whose predicted clean latents have the highest reward. The prediction that a
    candidate is judged by is that of its next step, so every index costs one evaluation per candidate, and index 0 one
    in all where x_T is shared. No choice is made after a last block of one step, which has no noise.
    """
    wide, first, last = ctx.branch(count), ctx.indices[0], ctx.indices[-1]
    steps = search.steps(wide)
    if shared:
        every = particles.rows(torch.zeros(len(ctx), count, dtype=torch.int64), 1)
        predicted = search.steps(ctx).at(ctx.initial(), first).take(every)
    else:
        predicted = steps.at(wide.initial(), first)
    differ = not shared
    for i in range(first, last):
        predicted, differ = steps.at(steps.after(predicted), i + 1), True
        if (i + 1 - first) % block:
            continue
        x0 = steps.x0(predicted)
        scores = search.score(wide, x0).view(-1, count)
        chosen = particles.best(scores)
        told(Choice(i + 1, predicted.x, x0, scores, chosen))
        predicted, differ = predicted.take(particles.rows(chosen[:, None].expand(-1, count), count)), False
    clean, after = steps.x0(predicted), steps.after(predicted)
    if not differ:
        return Found(after[particles.rows(torch.zeros(len(ctx), 1, dtype=torch.int64), count)])
    scores, images = search.best_of(wide, clean, count)
    chosen = particles.best(scores)
    told(Choice(last + 1, clean, clean, scores, chosen))
    return Found(after[particles.rows(chosen[:, None], count)], images)
