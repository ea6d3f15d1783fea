"""Combined generation (ImageReFL, Sorokin et al. 2025): the base for the first k of T steps, then the tuned one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.params import Settings as Section
from stages.sample.settings import Prefix, SampleSettings
from stages.sample.switching import Switching

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "combined generation",
    "Sorokin et al. 2025 (ImageReFL), arXiv 2505.22569",
    short="combined",
    letter="k",
    plain=End(0, "k = 0"),
    base=End(math.inf, "k = T"),
    leading=True,
    lines=("-", (0, (5, 1))),
    caption="Combined generation lets the base make the first k of T steps and the tuned network the rest.",
)


class AsReleased(Section):
    """What the released ImageReFL code does and its paper does not say; off. See docs/reproduction.md."""

    extra_step: bool = Field(
        default=False,
        description="allows k=0, where the base first makes one step at the last index, and k=T, where the base makes "
        "every step and the tuned network predicts once more at the last index",
    )


class Settings(Switching):
    """The switch steps."""

    as_released: AsReleased = Field(default_factory=AsReleased)

    def shared_prefix(self, value: float) -> Prefix:
        """The base's own k steps."""
        return Prefix(self.base_guidance, int(value))

    def check(self, sample: SampleSettings) -> None:
        """Every k leaves the base and the tuned network a step (k=0 is `tuned`, k=T is the base)."""
        steps = sample.steps
        low, high = (0, steps) if self.as_released.extra_step else (1, steps - 1)
        self.require(low, high, f"(k=0 is kind tuned, k={steps} is the base)")

    def predict(self, networks: Networks, value: float) -> Predict:
        """The base's prediction before index k, the tuned network's from k on."""
        base, tuned = networks.base(self.base_guidance), networks.tuned(self.guidance)
        if self.as_released.extra_step and value == networks.steps:
            return tuned  # every step of the base is in the shared prefix

        def at(x: Tensor, i: int) -> Tensor:
            return base(x, i) if i < value else tuned(x, i)

        return at
