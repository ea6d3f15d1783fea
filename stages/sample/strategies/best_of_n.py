"""Best of N: draw an image N times and keep the one with the highest reward; stop early once one is good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.search import Found, Search, numbered, require_counts
from stages.sample.settings import SampleSettings, SweepPoint

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "best of N",
    letter="n",
    plain=End(1, "N = 1"),
    lines=((0, (3, 1, 1, 1)),),
    markers=("P",),
    yardstick=True,
    caption="Best of N keeps the image with the highest reward of N that were drawn.",
)


class Settings(Search):
    """How many candidates."""

    n: tuple[int, ...] = Field(min_length=1, description="numbers N of candidates per image")
    stop: float | None = Field(default=None, description="no further candidates once one has this reward; null: never")

    def points(self) -> list[SweepPoint]:
        """One point per N."""
        return numbered("n", self.n)

    def check(self, sample: SampleSettings) -> None:
        """At least one candidate."""
        super().check(sample)
        require_counts("n", self.n)

    def find(self, ctx: Context, value: float) -> Found:
        """The best candidates. Candidate 0 is plain sampling."""
        x, images = self.candidate(ctx)
        best = ctx.score(images, self.reward)
        for number in range(1, int(value)):
            wanted = [row for row, score in enumerate(best.tolist()) if self.stop is None or score < self.stop]
            if not wanted:
                break
            part = ctx.take(wanted).candidate(number)
            other, found = self.candidate(part)
            scores = part.score(found, self.reward)
            for place, (row, score) in enumerate(zip(wanted, scores, strict=True)):
                if score > best[row]:
                    x[row], images[row], best[row] = other[place], found[place], score
        return Found(x, images)

    def candidate(self, ctx: Context) -> tuple[Tensor, Tensor]:
        """Latents after all steps of the rows of `ctx`, and the images that are judged."""
        steps = self.steps(ctx)
        predicted = steps.last()
        return steps.after(predicted), ctx.decode(steps.x0(predicted))
