"""The tuned network alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.about import StrategyAbout
from stages.sample.mixing import Mixing
from stages.sample.settings import SweepPoint

if TYPE_CHECKING:
    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout("tuned only", role="tuned", caption="The tuned network makes every step.")


class Settings(Mixing):
    """No keys of its own."""

    def points(self) -> list[SweepPoint]:
        """One point, k=0 of combined generation."""
        return [SweepPoint("tuned", 0.0)]

    def predict(self, networks: Networks, value: float) -> Predict:
        """The tuned network's prediction at every step."""
        return networks.tuned(self.guidance)
