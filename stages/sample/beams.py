"""The beams of DSearch: they branch, the best child of each stays, and the worst beams are dropped or replaced.

B images have W beams each, side by side: rows of latents are [B * W]. A child's noise belongs to its place, the beam's
slot and the number of the child, so it does not depend on how many children there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.sample.particles import Final, Populations, best, multinomial, rows
from stages.sample.search import Found
from stages.sample.stepping import Predicted

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.strategies.dsearch import Settings


@dataclass(frozen=True)
class Beams:
    """Beams with the prediction at the index that they enter; `scores` [B, W] are rewards of its clean latents."""

    ctx: Context
    predicted: Predicted
    width: int
    scores: Tensor | None = None

    def keep(self, order: Tensor) -> Beams:
        """Beams [B, W'] by their slots, in new slots; those that all stay where they are keep their draws too."""
        if order.shape[1] == self.width and bool((order == torch.arange(self.width, device=order.device)).all()):
            return self
        width, places = order.shape[1], rows(order, self.width)
        ctx = self.ctx.place(places.tolist(), list(range(width)) * len(order))
        scores = None if self.scores is None else self.scores.gather(1, order)
        return Beams(ctx, self.predicted.take(places), width, scores)


@dataclass(frozen=True)
class Branched:
    """The children of some `images` [B']: rewards [B', W, n] and the best of each beam [B', W]."""

    images: list[int]
    scores: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class Choice:
    """What happened at step i: its children, the best of every beam, and the slots [B, W'] of the beams that go on."""

    i: int
    branched: list[Branched]
    winners: Beams
    order: Tensor


Told = Callable[[Choice], None]


def branching(ctx: Context, search: Settings, m: int) -> Found:
    """For each row of `ctx` the best of the beams that are left."""
    make = Populations.of_prompts if search.one_run else Populations.of
    populations, final = evolve(make(ctx, search.most), search, m)
    return populations.result(final, best(final.scores))


def evolve(start: Populations, search: Settings, m: int, told: Told = lambda choice: None) -> tuple[Populations, Final]:
    """All steps of the beams: those that are left, and what they lead to."""
    first, choices = start.ctx.indices[0], len(start.ctx.indices) - 1
    beams = Beams(start.wide, search.steps(start.wide).at(start.wide.initial(), first), start.particles)
    for i in start.ctx.indices[:-1]:
        coins = start.ctx.noise.uniform(f"search {i}", 1)[:, 0] < search.probability(i - first, choices)
        branched, winners = _best_children(search, beams, m, coins.tolist())
        order = kept(search, winners, i - first, choices, start.ctx.noise.uniform(f"resample {i}", beams.width))
        told(Choice(i, branched, winners, order))
        beams = winners.keep(order)
    steps, scores = search.steps(beams.ctx), beams.scores
    if scores is None:
        scores = search.score(beams.ctx, steps.x0(beams.predicted)).view(-1, beams.width)
    return replace(start, wide=beams.ctx, particles=beams.width), Final(steps.after(beams.predicted), scores)


def _best_children(search: Settings, beams: Beams, m: int, coins: list[bool]) -> tuple[list[Branched], Beams]:
    """The best child of every beam, of more children for images whose coin says so."""
    branched, predicted, scores = list[Branched](), list[Predicted](), list[Tensor]()
    for searching in (False, True):
        images = [n for n, coin in enumerate(coins) if coin == searching]
        if images:
            count = search.children(m, searching, beams.width)
            children, scored = _children(search, beams, images, count)
            chosen = best(scored)
            branched.append(Branched(images, *(v.unflatten(0, (-1, beams.width)) for v in (scored, chosen))))
            predicted.append(children.take(rows(chosen[:, None], count)))
            scores.append(scored.amax(1).view(-1, beams.width))
    place = torch.tensor([image for part in branched for image in part.images]).argsort()
    back = (place[:, None] * beams.width + torch.arange(beams.width)).flatten()
    whole = Predicted(predicted[0].i, torch.cat([p.x for p in predicted]), torch.cat([p.prediction for p in predicted]))
    return branched, Beams(beams.ctx, whole.take(back), beams.width, torch.cat(scores)[place])


def _children(search: Settings, beams: Beams, images: list[int], count: int) -> tuple[Predicted, Tensor]:
    """`count` children of every beam of some images, entering the next index, and their rewards [beams, count]."""
    own = [image * beams.width + slot for image in images for slot in range(beams.width)]
    numbers = [child * search.most + beams.ctx.candidates[row] for row in own for child in range(count)]
    parents = [row for row in own for _ in range(count)]
    wide = beams.ctx.place(parents, numbers)
    steps = search.steps(wide)
    predicted = steps.at(steps.after(beams.predicted.take(parents)), beams.predicted.i + 1)
    return predicted, search.score(wide, steps.x0(predicted)).view(-1, count)


def kept(search: Settings, beams: Beams, i: int, choices: int, uniforms: Tensor) -> Tensor:
    """Slots [B, W'] of the beams that go on after step i: where the schedule drops some, the others from the best on;
    then copies in place of the worst.
    """
    assert beams.scores is not None
    width = search.left(i, choices)
    order = torch.arange(beams.width, device=beams.scores.device).expand_as(beams.scores)
    if width < beams.width:
        order = beams.scores.sort(dim=1, descending=True, stable=True).indices[:, :width]
    if worst := int(search.replace * width):
        order = replaced(order, beams.scores.gather(1, order), worst, uniforms)
    return order


def replaced(order: Tensor, scores: Tensor, worst: int, uniforms: Tensor) -> Tensor:
    """`order` [B, W] without the places of its `worst` lowest scores, and behind the others as many copies of them,
    drawn in proportion to exp(score) by uniforms [B, at least `worst`].
    """
    removed = scores.sort(dim=1, stable=True).indices[:, :worst]
    stays = torch.ones_like(scores, dtype=torch.bool).scatter(1, removed, False)
    others, values = (value[stays].view(len(value), -1) for value in (order, scores))
    copies = multinomial(values, uniforms[:, :worst])
    return torch.cat([others, others.gather(1, copies)], 1)
