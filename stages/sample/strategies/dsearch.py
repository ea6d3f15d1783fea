"""DSearch and DSearch-R (Li et al. 2025, arXiv 2503.02039): beams that branch at random steps and become fewer.

Read in the released code (divelab/DSearch) too. It prunes beams across the prompts of a batch; here an image is a
search of its own, with beams of its own. `replace` above 0 is DSearch-R.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import StrategyAbout
from stages.sample.search import Search, numbered, require_counts
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import require_random

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Found

ABOUT = StrategyAbout(
    "DSearch",
    "Li et al. 2025, arXiv 2503.02039",
    letter="m",
    lines=((0, (6, 1, 2, 1)),),
    markers=("d",),
    caption="DSearch branches its beams at random steps, ever more often, and keeps ever fewer of them.",
)


class Settings(Search):
    """Beams, their children, and two schedules. i is the step, S = T - 1 the number of steps that have a choice."""

    m: tuple[int, ...] = Field(min_length=1, description="numbers M of children of a beam at a step without search")
    wider: float = Field(default=2.0, ge=1, description="w, by how much a step with search has more children")
    beams: int = Field(default=1, ge=1, description="b, beams at the end; the best one is the image")
    oversample: int = Field(default=5, ge=1, description="beams at the start are b times this")
    search: Literal["all", "exponential", "linear", "uniform"] = Field(
        default="exponential",
        description="probability of a search at step i: 1, 1 - exp(-3 i / S), (i + 10) / S or 0.7",
    )
    drop: Literal["exponential", "linear", "quadratic", "sigmoid"] | None = Field(
        default="exponential", description="how the number of beams falls to b; null: at once, so oversample is 1"
    )
    replace: float = Field(
        default=0.0, ge=0, lt=1, description="share of the worst beams that copies of others replace (DSearch-R)"
    )
    one_run: bool = Field(
        default=False,
        description="the images of a prompt are the last beams of one search, as released: related images, whose "
        "diversity is not that of independent ones",
    )

    def points(self) -> list[SweepPoint]:
        """One point per M."""
        return numbered("m", self.m)

    def check(self, sample: SampleSettings) -> None:
        """Children of a beam diverge only where steps are random."""
        super().check(sample)
        require_counts("m", self.m)
        require_counts(
            "wider times m times beams times oversample", [math.ceil(self.wider * m * self.most) for m in self.m]
        )
        require_random(sample, "children of a beam")
        if self.drop is None and self.oversample > 1:
            raise ValueError(f"oversample {self.oversample} and no drop: expected 1, or a schedule of drop")
        if self.one_run and self.beams < sample.samples_per_prompt:
            raise ValueError(
                f"one_run: beams {self.beams} is below sample.samples_per_prompt {sample.samples_per_prompt}; one "
                "search has to have a beam for every image of a prompt"
            )

    @property
    def most(self) -> int:
        """B_max, the number of beams at the start."""
        return self.beams * self.oversample

    def probability(self, i: int, choices: int) -> float:
        """The probability that step i of `choices` has a search."""
        formulas = {"all": 1.0, "exponential": 1 - math.exp(-3 * i / choices), "linear": (i + 10) / choices}
        return formulas.get(self.search, 0.7)

    def left(self, i: int, choices: int) -> int:
        """Beams kept after step i of `choices`, never below b."""
        most, b, share = self.most, self.beams, i / choices
        kept = {
            None: most,
            "exponential": int(most * (b / most) ** share),
            "linear": int(most - i * (most - b) / choices),
            "quadratic": int(b + (most - b) * (1 - share) ** 2),
            "sigmoid": int(most / (1 + math.exp(-10 * ((choices - 1 - i) / choices - 0.5)))),
        }[self.drop]
        return max(b, kept)

    def children(self, m: int, searching: bool, beams: int) -> int:
        """Children of each of `beams` beams; a search makes up for beams that have been dropped."""
        return int(self.wider * m * (self.most / beams if self.most > beams else 1)) if searching else m

    def find(self, ctx: Context, value: float) -> Found:
        """The best beam that is left."""
        from stages.sample.beams import branching

        return branching(ctx, self, int(value))
