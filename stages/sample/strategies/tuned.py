"""The tuned network alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.sample.settings import StrategySettings

if TYPE_CHECKING:
    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks


class Settings(StrategySettings):
    """No keys of its own."""

    def points(self) -> list[tuple[str, float]]:
        """One point, k=0 of combined generation."""
        return [("tuned", 0.0)]


def predict(networks: Networks, settings: Settings, value: float) -> Predict:
    """The tuned network's prediction at every step."""
    return networks.tuned(settings.guidance)
