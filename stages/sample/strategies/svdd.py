"""SVDD-PM (Li et al. 2024, arXiv 2408.08252): every step draws M candidates and goes on from the best.

The soft value of a candidate is estimated by the reward of its predicted clean latents (posterior mean). As in the
released code (masa-ue/SVDD-image) the candidate with the highest estimate stays, which is the limit of a temperature
of 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.search import Search, numbered, require_counts
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import require_random

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Found

ABOUT = StrategyAbout(
    "SVDD",
    "Li et al. 2024, arXiv 2408.08252",
    letter="m",
    plain=End(1, "M = 1"),
    lines=((0, (2, 1, 1, 1)),),
    markers=("8",),
    caption="SVDD draws M candidates of every step and goes on from the one whose predicted clean image is best.",
)


class Settings(Search):
    """Candidates of a step."""

    m: tuple[int, ...] = Field(min_length=1, description="numbers M of candidates of every step")

    def points(self) -> list[SweepPoint]:
        """One point per M."""
        return numbered("m", self.m)

    def check(self, sample: SampleSettings) -> None:
        """Candidates diverge only where steps are random."""
        super().check(sample)
        require_counts("m", self.m)
        require_random(sample, "candidates of a step")

    def find(self, ctx: Context, value: float) -> Found:
        """What the best candidates of all steps lead to; with M = 1 plain sampling."""
        from stages.sample.blocks import best_of_blocks

        return best_of_blocks(ctx, self, int(value), block=1, shared=True)
