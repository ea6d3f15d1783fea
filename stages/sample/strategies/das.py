"""DAS (Kim et al. 2025, arXiv 2501.05803): tempered, twisted sequential Monte Carlo with gradients of the reward.

Read in the released code (krafton-ai/DAS) too; `as_released` is where it departs from the paper. Its `kl_coeff` is the
inverse of `strength`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.about import StrategyAbout
from stages.params import Settings as Section
from stages.sample.search import Particles

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Found

ABOUT = StrategyAbout(
    "DAS",
    "Kim et al. 2025, arXiv 2501.05803",
    letter="n",
    lines=((0, (8, 1, 1, 1)),),
    markers=("*",),
    caption="DAS moves N particles of each image along gradients of the reward and resamples them.",
)


class AsReleased(Section):
    """What the released code does and the paper does not say; off."""

    stay: bool = Field(
        default=False, description="gradients and twists stay in their slots where particles move to copies of others"
    )
    straight: bool = Field(
        default=False, description="with a numeric schedule the gradient's strength is tempered with power 1"
    )


class Settings(Particles):
    """Particles, the strength of the reward and how it is tempered."""

    strength: float = Field(
        default=100.0, ge=0, description="lambda, which multiplies rewards; the inverse of the release's kl_coeff"
    )
    gamma: float = Field(default=0.008, gt=0, description="how fast the strength rises over the steps")
    schedule: Literal["exp"] | Annotated[float, Field(ge=0)] = Field(
        default="exp",
        description="share of the strength at step i, at most 1: (1 + gamma)^i - 1, or (gamma i)^schedule",
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="resample where the effective sample size is below this share of N"
    )
    resampler: Literal["ssp", "systematic", "stratified", "multinomial"] = Field(
        default="ssp", description="how ancestors are drawn"
    )
    result: Literal["weight", "draw"] = Field(
        default="weight", description="of the last particles: the one with the largest weight, or one drawn by weight"
    )
    as_released: AsReleased = Field(default_factory=AsReleased)

    def needs_gradient(self) -> bool:
        """Of the reward, with respect to the images."""
        return True

    def tempered(self, i: int) -> float:
        """The share of the strength at step i."""
        try:
            rising = (1 + self.gamma) ** i - 1 if self.schedule == "exp" else (self.gamma * i) ** float(self.schedule)
        except OverflowError:
            return 1.0
        return min(rising, 1.0)

    def ahead(self, i: int) -> float:
        """The share of the strength that step i is shifted by."""
        if self.as_released.straight and self.schedule != "exp":
            return min(self.gamma * (i + 1), 1.0)
        return self.tempered(i + 1)

    def find(self, ctx: Context, value: float) -> Found:
        """One of the last particles."""
        from stages.sample.particles import Final, Populations, best, multinomial, rows
        from stages.sample.twisted import twisted

        start = (Populations.of_prompts if self.one_run else Populations.of)(ctx, int(value))
        final, weights = twisted(start, self)
        noise = start.ctx.noise
        if self.one_run:
            kept = rows(multinomial(weights.logs, noise.uniform("resample result", start.particles)), start.particles)
            final = Final(final.x[kept], final.scores)
        heaviest = best(weights.logs)
        drawn = multinomial(weights.logs, noise.uniform("result", 1))[:, 0]
        return start.result(final, heaviest if self.result == "weight" else drawn)
