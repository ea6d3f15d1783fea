"""Annealed importance guidance (Jena et al. 2025, arXiv 2409.06493): from base to tuned with weight (i / T)^p."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.mixing import Mixing
from stages.sample.settings import SampleSettings, SweepPoint

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "AIG",
    "Jena et al. 2025, arXiv 2409.06493",
    letter="p",
    plain=End(0, "p → 0"),
    base=End(math.inf, "p → ∞"),
    lines=("--", "-."),
    markers=("s", "D"),
    caption="AIG moves from the base to the tuned network with weight (i / T)^p at step i.",
)


class Settings(Mixing):
    """The powers."""

    p: tuple[float, ...] = Field(min_length=1, description="powers p; the larger, the longer the base prevails")

    def points(self) -> list[SweepPoint]:
        """One point per power."""
        return [SweepPoint(f"p={p:g}", float(p)) for p in self.p]

    def check(self, sample: SampleSettings) -> None:
        """Powers are positive."""
        if min(self.p) <= 0:
            raise ValueError(f"p {min(self.p):g} is not above 0")

    def predict(self, networks: Networks, value: float) -> Predict:
        """(1 - w) base + w tuned, of predictions; a network whose weight is 0 is not evaluated."""
        base, tuned = networks.base(self.base_guidance), networks.tuned(self.guidance)

        def at(x: Tensor, i: int) -> Tensor:
            w = weight(i, networks.steps, value)
            return base(x, i) if w == 0 else (1 - w) * base(x, i) + w * tuned(x, i)

        return at


def weight(i: int, steps: int, p: float) -> float:
    """Weight of the tuned prediction at index i of T: (i / T)^p; 0 at the first step, below 1 at the last."""
    return (i / steps) ** p
