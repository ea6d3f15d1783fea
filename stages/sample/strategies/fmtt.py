"""FMTT (Sabour et al. 2025, flow map trajectory tilting): particles weighed and shifted by where the flow leads them.

Written from the equations of the paper's sampler; no released code was at hand. The map is followed by `lookahead`
deterministic predictions, of which one is the predicted clean latents, or by a consistency model distilled from the
base. A step is that of the sampler, so without strength this is plain sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import StrategyAbout
from stages.sample.search import Particles
from stages.sample.settings import Target, student

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context
    from stages.sample.search import Found
    from stages.sample.stepping import Predicted

ABOUT = StrategyAbout(
    "FMTT",
    "Sabour et al. 2025",
    letter="n",
    lines=((0, (10, 1, 1, 1)),),
    markers=("X",),
    caption="FMTT shifts and weighs N particles of each image by the reward of where the deterministic flow leads.",
)


class Settings(Particles):
    """Particles, the strength of the reward and how far the flow is followed."""

    strength: float = Field(default=100.0, ge=0, description="lambda, which multiplies rewards")
    lookahead: int = Field(
        default=4, ge=1, description="L, predictions that follow the flow to its end: 1 is the predicted clean latents"
    )
    flow_map: str | None = Field(
        default=None,
        description="the consistency model of prepare.train.consistency that says in one evaluation where the base's "
        "flow ends, in place of `lookahead`; null: none",
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="resample where the effective sample size is below this share of N"
    )
    result: Literal["weight", "draw"] = Field(
        default="weight", description="of the last particles: the one with the largest weight, or one drawn by weight"
    )

    def needs_gradient(self) -> bool:
        """Of the reward, with respect to the images."""
        return True

    def students(self, target: Target) -> Mapping[str, str]:
        """The flow map, where it is distilled."""
        return {} if self.flow_map is None else {"flow_map": self.flow_map}

    def end_of(self, ctx: Context, predicted: Predicted) -> Tensor:
        """Clean latents [B, C, h, w] that the flow leads to from those of a prediction, differentiable in them."""
        from stages.models.consistency import consistent
        from stages.sample.lookahead import lookahead

        if self.flow_map is not None:
            times = ctx.grid.timesteps[predicted.i].expand(len(predicted.x))
            distilled = ctx.networks.other(student(self.flow_map), 1.0)(predicted.x, predicted.i)
            return consistent(predicted.x, ctx.grid.x0(predicted.x, distilled, predicted.i), times)
        return lookahead(ctx, self, predicted, self.lookahead)

    def find(self, ctx: Context, value: float) -> Found:
        """One of the last particles."""
        from stages.sample.flow_maps import mapped
        from stages.sample.particles import Final, Populations, best, multinomial, rows

        start = (Populations.of_prompts if self.one_run else Populations.of)(ctx, int(value))
        final, weights = mapped(start, self)
        noise = start.ctx.noise
        if self.one_run:
            kept = rows(multinomial(weights, noise.uniform("resample result", start.particles)), start.particles)
            final = Final(final.x[kept], final.scores)
        drawn = multinomial(weights, noise.uniform("result", 1))[:, 0]
        return start.result(final, best(weights) if self.result == "weight" else drawn)
