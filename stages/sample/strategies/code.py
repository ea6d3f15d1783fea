"""CoDe (Singh et al. 2025, arXiv 2502.00968): best of N in blocks of steps, each of which goes on from the best.

Read in the released code (anujinho/code) too, which evaluates the network again where a kept prediction serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.search import Search, numbered, require_counts
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import require_random

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Found

ABOUT = StrategyAbout(
    "CoDe",
    "Singh et al. 2025, arXiv 2502.00968",
    letter="n",
    plain=End(1, "N = 1"),
    lines=((0, (4, 1, 1, 1)),),
    markers=("p",),
    caption="CoDe draws N candidates and goes on from the best of them after every block of steps.",
)


class Settings(Search):
    """Candidates and blocks."""

    n: tuple[int, ...] = Field(min_length=1, description="numbers N of candidates per image")
    block: int = Field(default=5, ge=1, description="B, steps between two choices; T or more: best of N")
    start: Literal["shared", "own"] = Field(
        default="shared", description="x_T of the candidates: one per image, as released, or one each"
    )

    def points(self) -> list[SweepPoint]:
        """One point per N."""
        return numbered("n", self.n)

    def check(self, sample: SampleSettings) -> None:
        """Candidates diverge only where steps are random."""
        super().check(sample)
        require_counts("n", self.n)
        require_random(sample, "candidates of a state")
        if self.part == "tuned" and self.start == "own":
            raise ValueError("part tuned: candidates go on from the base's steps; expected start shared")

    def find(self, ctx: Context, value: float) -> Found:
        """The best candidate of the last block; with N = 1 plain sampling."""
        from stages.sample.blocks import best_of_blocks

        return best_of_blocks(ctx, self, int(value), self.block, self.start == "shared")
