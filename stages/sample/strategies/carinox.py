"""CARINOX (Kasaei et al. 2025, arXiv 2509.17458): noise optimisation from several starts, by rewards
weighed for the kind of prompt.

Read in the released code (amirkasaei/carinox), which departs from ReNO: the loss of reward R is 1 - 2 R, the gradient
of each, with the regulariser, is clipped by itself before their sum is, and iterations are compared by the losses
without weights. The release ships a table of weights by category, but its program never reads it; `categories` is such
a table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from stages.about import StrategyAbout
from stages.params import Settings as Section
from stages.sample.noise_search import NoiseSearch, Weights, require_weights, weighted
from stages.sample.settings import SampleSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "CARINOX",
    "Kasaei et al. 2025, arXiv 2509.17458",
    letter="n",
    lines=((0, (4, 1, 2, 1, 2, 1)),),
    markers=("h",),
    caption="CARINOX moves several first noises of each image along gradients of rewards, weighed by the kind of "
    "prompt, and keeps the best image.",
)


class Category(Section):
    """A kind of prompt, and the weights of rewards for it."""

    pattern: str = Field(description="regular expression that is found in prompts of this kind, whatever the case")
    weights: Weights = Field(description="models of the study, and the factor of each")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern


class Settings(NoiseSearch):
    """Starts, and weights by category."""

    top: ClassVar[float] = 1.0
    slope: ClassVar[float] = 2.0
    clip_each: ClassVar[bool] = True

    starts: int = Field(default=5, ge=1, description="noises that are optimised for each image; the best image stays")
    categories: dict[str, Category] = Field(
        default_factory=dict, description="weights of kinds of prompts; the first that fits, else `weights`"
    )

    def check(self, sample: SampleSettings) -> None:
        """Every category asks a reward."""
        super().check(sample)
        for name, category in self.categories.items():
            require_weights(f"categories.{name}.weights", category.weights)

    def rewards(self) -> tuple[str, ...]:
        """Those with a weight above 0 for some prompt."""
        return weighted(self.weights, *(category.weights for category in self.categories.values()))

    def weights_for(self, prompt: str) -> Weights:
        """Those of the first category that the prompt is of."""
        fitting = (c for c in self.categories.values() if re.search(c.pattern, prompt, re.IGNORECASE))
        return next((category.weights for category in fitting), self.weights)

    def summed(self, weight: float) -> float:
        """1 for every reward that is asked."""
        return float(weight > 0)

    def sample(self, ctx: Context, value: float) -> Tensor:
        """The image with the lowest loss of all starts; start s is candidate s of the image."""
        from stages.sample.ascent import Best, optimised

        def best(part: Context) -> Best:
            found = optimised(part, self, int(value))
            for start in range(1, self.starts):
                found = found.or_better(optimised(part.candidate(start), self, int(value)))
            return found

        return Best.cat([best(part) for _, part in ctx.parts()]).images
