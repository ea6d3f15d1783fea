"""Reinforcement learning guidance: base + w (tuned - base) of predictions, each network guided by itself first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.mixing import Mixing
from stages.sample.settings import SweepPoint

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "RLG",
    letter="w",
    plain=End(1, "w = 1"),
    base=End(0, "w = 0"),
    lines=(":", (0, (1, 3))),
    markers=("^", "<"),
    caption="RLG adds w times the difference between the tuned network and the base to the base; w above 1 goes "
    "further than the tuned network.",
)


class Settings(Mixing):
    """The weights."""

    w: tuple[float, ...] = Field(min_length=1, description="weights: 0 is the base, 1 is tuned, above 1 goes further")
    tuned_steps: int = Field(
        default=0, ge=0, description="first steps that the tuned network makes alone (zero_init_step of the release)"
    )

    def points(self) -> list[SweepPoint]:
        """One point per weight."""
        return [SweepPoint(f"w={w:g}", float(w)) for w in self.w]

    def predict(self, networks: Networks, value: float) -> Predict:
        """The weighted prediction; at 0 and at 1 the one network alone, bit for bit."""
        base, tuned = networks.base(self.base_guidance), networks.tuned(self.guidance)
        if value == 0 and not self.tuned_steps:
            return base
        if value == 1:
            return tuned

        def at(x: Tensor, i: int) -> Tensor:
            if i < self.tuned_steps:
                return tuned(x, i)
            start = base(x, i)
            if value == 0:
                return start
            return start + value * (tuned(x, i) - start)

        return at
