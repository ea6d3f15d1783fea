"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) of one network over its scales: of the base alone,
or of the tuned network alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.mixing import Predicting
from stages.sample.settings import SweepPoint, Target

if TYPE_CHECKING:
    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "guidance",
    "Ho and Salimans 2022, arXiv 2207.12598",
    letter="g",
    plain=End(1, "g = 1"),
    markers=("h",),
    caption="Guidance is classifier-free guidance of one network alone.",
)


class Settings(Predicting):
    """The scales."""

    apply_to: tuple[Target, ...] = Field(default=("base",), min_length=1, description="base, tuned, or both")
    scales: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1, description="guidance scales; 1 is none")

    def points(self) -> list[SweepPoint]:
        """One point per scale."""
        return [SweepPoint(f"g={scale:g}", float(scale)) for scale in self.scales]

    def base_pass(self, value: float) -> float:
        """Applied to the base this is its plain sampling."""
        return value

    def predict(self, networks: Networks, value: float) -> Predict:
        """p(no prompt) + g (p(prompt) - p(no prompt)), p being predictions."""
        return networks.own(value)
