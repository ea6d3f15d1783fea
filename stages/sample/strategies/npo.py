"""Guidance by a second network (Wang et al. 2025, Diffusion-NPO, arXiv 2505.11245): away from one that was trained on
exchanged pairs, without a prompt.

Read in the released code (G-U-N/Diffusion-NPO) too. The negative network never sees the prompt; with the base as the
negative network this is classifier-free guidance with the base's prediction without a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.about import StrategyAbout
from stages.sample.mixing import Predicting
from stages.sample.settings import BASE, Merge, SampleSettings, SweepPoint, Target

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "NPO",
    "Wang et al. 2025, arXiv 2505.11245",
    letter="s",
    lines=((0, (2, 2, 6, 2)),),
    markers=("3",),
    caption="NPO guides away, with scale s, from a network that was trained on exchanged pairs.",
)


class Settings(Predicting):
    """Scales and the negative network."""

    apply_to: tuple[Target, ...] = Field(default=("tuned",), min_length=1, description="base, tuned, or both")
    s: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1, description="guidance scales; 1 is none")
    negative: str = Field(description="the negative network: a run, a method (its run of the same seed), or base")
    merge: float | None = Field(
        default=None,
        description="m: the negative network is negative + (1 - m) (tuned - base), as the release merges weights; "
        "null: it is taken as it is",
    )
    rescale: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="q: share of the prediction that gets the standard deviation of the positive one",
    )

    def points(self) -> list[SweepPoint]:
        """One point per scale."""
        return [SweepPoint(f"s={scale:g}", float(scale)) for scale in self.s]

    def check(self, sample: SampleSettings) -> None:
        """Weights are merged with those of a trained run, into a network that is not the base."""
        if self.merge is None:
            return
        if "base" in self.apply_to:
            raise ValueError("merge: there is no tuned network where the base is sampled; set apply_to to [tuned]")
        if self.negative == BASE:
            raise ValueError("merge: expected a trained network as negative, found base")

    def networks(self) -> tuple[str, ...]:
        """The negative one."""
        return () if self.negative == BASE else (self.negative,)

    def merges(self) -> tuple[Merge, ...]:
        """The negative one with the tuned one, where they are merged."""
        return () if self.merge is None else (Merge(self.negative, self.merge),)

    def predict(self, networks: Networks, value: float) -> Predict:
        """negative(no prompt) + s (positive(prompt) - negative(no prompt))."""
        negative = networks.without_prompt(
            self.negative if self.merge is None else Merge(self.negative, self.merge).name
        )
        positive = networks.own(1.0)

        def at(x: Tensor, i: int) -> Tensor:
            start, wanted = negative(x, i), positive(x, i)
            return rescaled(start + value * (wanted - start), wanted, self.rescale)

        return at


def rescaled(guided: Tensor, wanted: Tensor, share: float) -> Tensor:
    """`share` of a prediction [B, C, h, w] with the standard deviation of `wanted`, per image, and the rest as it is.

    Lin et al. 2024 (arXiv 2305.08891), equations 15 and 16.
    """
    if share == 0:
        return guided
    level = wanted.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return share * guided * level + (1 - share) * guided
