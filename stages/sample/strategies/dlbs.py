"""Diffusion latent beam search (Oshima et al. 2025, arXiv 2501.19252): beams, judged after a look-ahead.

Read in the released code (shim0114/T2V-Diffusion-Search) too, which searches clips; an image is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import StrategyAbout
from stages.params import Settings as Section
from stages.sample.search import Found, Search, numbered, require_counts
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import require_random

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "DLBS",
    "Oshima et al. 2025, arXiv 2501.19252",
    letter="b",
    lines=((0, (6, 1, 1, 1, 1, 1)),),
    markers=("H",),
    caption="DLBS keeps the B best of B K children of every step, judged after a look-ahead of deterministic steps.",
)


@dataclass(frozen=True)
class Choice:
    """What step i found: rewards [B, N] of the children (of the beams, at the end), those kept in order [B, W], and
    their latents `x` after the step and predicted clean latents `x0`, both [B * N, C, h, w].
    """

    i: int
    scores: Tensor
    kept: Tensor
    x: Tensor
    x0: Tensor


Told = Callable[[Choice], None]


class AsReleased(Section):
    """What the released code does and the paper does not say; off."""

    eight_bit: bool = Field(default=False, description="rewards are of images cut to 8 bits, not rounded")


class Settings(Search):
    """Beams, their children and the look-ahead."""

    b: tuple[int, ...] = Field(min_length=1, description="numbers B of beams per image")
    children: int = Field(default=2, ge=1, description="K, children of a beam at every step")
    lookahead: int = Field(
        default=6, ge=1, description="L, predictions that a child is judged by: 1 is its predicted clean latents"
    )
    as_released: AsReleased = Field(default_factory=AsReleased)

    def points(self) -> list[SweepPoint]:
        """One point per B."""
        return numbered("b", self.b)

    def check(self, sample: SampleSettings) -> None:
        """Children of a beam diverge only where steps are random."""
        super().check(sample)
        require_counts("b", self.b)
        require_counts("b times children", [b * self.children for b in self.b])
        require_random(sample, "children of a beam")

    def as_judged(self, images: Tensor) -> Tensor:
        """Images as they are, or cut to 8 bits."""
        return (images * 255).floor() / 255 if self.as_released.eight_bit else images

    def find(self, ctx: Context, value: float) -> Found:
        """The best of the last beams."""
        return beam_search(ctx, self, int(value))


def beam_search(ctx: Context, search: Settings, beams: int, told: Told = lambda choice: None) -> Found:
    """The best beam of each row of `ctx`. `told` is called with the choice of every step and of the end.

    The prediction of a child that look-ahead begins with is that of its next step, if it stays.
    """
    from stages.sample import particles
    from stages.sample.lookahead import lookahead

    wide = ctx.branch(beams)
    predicted = search.steps(wide).at(wide.initial(), ctx.indices[0])
    children = wide.branch(search.children)
    steps = search.steps(children)
    parents = [beam for beam in range(len(wide)) for _ in range(search.children)]
    for i in ctx.indices[:-1]:
        after = steps.at(steps.after(predicted.take(parents)), i + 1)
        x0 = lookahead(children, search, after, search.lookahead)
        scores = search.score(children, x0).view(len(ctx), -1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :beams]
        told(Choice(i, scores, order, after.x, x0))
        predicted = after.take(particles.rows(order, beams * search.children))
    clean, after = search.steps(wide).x0(predicted), search.steps(wide).after(predicted)
    scores, images = search.best_of(wide, clean, beams)
    told(Choice(ctx.indices[-1], scores, scores.sort(dim=1, descending=True, stable=True).indices, clean, clean))
    return Found(after[particles.rows(particles.best(scores)[:, None], beams)], images)
