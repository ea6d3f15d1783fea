"""Noise on the condition of the first steps, for diversity without training or a reward.

After Kim et al. 2024 (arXiv 2408.12692), who weaken the bond between text and image early on. Their schedule could not
be verified: the shape of the noise and its sizes are ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.conditioning import Conditioning
    from stages.models.noise import Noise
    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "condition noise",
    "after Kim et al. 2024, arXiv 2408.12692",
    letter="k",
    plain=End(0, "k = 0"),
    lines=((0, (1, 4)),),
    markers=("|",),
    caption="Condition noise adds noise to the text embeddings of the first k steps of each image.",
)
LEAST = 1e-9  # uniform numbers are kept this far from 0 and 1, where their normal quantile is infinite


class Settings(Stepping):
    """How many steps see a noisy condition, and how noisy it is."""

    k: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="numbers of first steps whose text embeddings are noisy; 0 is plain sampling"
    )
    scale: float = Field(
        default=0.5,
        ge=0,
        description="standard deviation of the noise, in units of the root mean square of the embeddings",
    )

    def points(self) -> list[SweepPoint]:
        """One point per number of steps."""
        return [SweepPoint(f"k={k}", float(k)) for k in self.k]

    def check(self, sample: SampleSettings) -> None:
        """No more steps than there are."""
        super().check(sample)
        if max(self.k) > sample.steps:
            raise ValueError(f"k {max(self.k)} is above sample.steps {sample.steps}")

    def sample(self, ctx: Context, value: float) -> Tensor:
        """All steps by the network's prediction, the first ones with a noisy text of each image's own."""
        steps = self.steps(ctx)
        if value == 0:
            return ctx.decode(steps.finish())
        text = noisy(ctx.networks.text, ctx.noise, self.scale)
        first = self.steps(replace(ctx, networks=ctx.networks.conditioned(text)))

        def predict(x: Tensor, i: int) -> Tensor:
            return (first if i < value else steps).predict(x, i)

        return ctx.decode(ctx.finish(predict, steps.enter))


def noisy(text: Conditioning, noise: Noise, scale: float) -> Conditioning:
    """Embeddings of the tokens, and of the whole text where there is one, plus scale times their root mean square
    times standard normal noise, drawn for each row.
    """
    import torch

    def changed(name: str, given: Tensor) -> Tensor:
        drawn = noise.uniform(f"condition {name}", given[0].numel()).clamp(LEAST, 1 - LEAST)
        normal = (2**0.5 * torch.erfinv(2 * drawn - 1)).to(given).view_as(given)
        size = given.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (given.ndim - 1))
        return given + scale * size * normal

    pooled = None if text.pooled is None else changed("pooled", text.pooled)
    return replace(text, text=changed("text", text.text), pooled=pooled)
