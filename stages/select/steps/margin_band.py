"""Keep pairs whose margin of a reward lies in a band: neither too close to call nor too easy.

With `least` it is the preset of AIR ("moderate margin, high absolute score"), known for texts; the bounds are yours.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """The reward and the band, in units of its scores or in shares of the pairs."""

    reward: str = Field(description="the reward, of score.rewards")
    low: float = Field(default=0.0, ge=0, description="least difference of the two scores")
    high: float | None = Field(default=None, ge=0, description="largest difference; null: any")
    shares: tuple[float, float] = Field(
        default=(0.0, 1.0),
        description="of the pairs by rising difference, the part from the first share to the second",
    )
    least: float | None = Field(default=None, description="the higher of the two scores is at least this; null: any")
    agrees: bool = Field(
        default=False, description="only pairs of which the reward scores the preferred image higher; drops ties"
    )

    @model_validator(mode="after")
    def _bands(self) -> Settings:
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}, expected a band")
        if not 0 <= self.shares[0] < self.shares[1] <= 1:
            raise ValueError(f"shares {list(self.shares)}, expected two from 0 to 1, the first below the second")
        return self

    def rewards(self) -> tuple[str, ...]:
        """The reward."""
        return (self.reward,)


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs in the band; of equal margins at a share's edge the first ids come first."""
    gap = pairs.gap(settings.reward)
    margin, place = np.abs(gap), np.empty(len(pairs))
    place[np.lexsort((pairs.rank, margin))] = np.arange(len(pairs)) / len(pairs)
    keep = (margin >= settings.low) & (place >= settings.shares[0]) & (place < settings.shares[1])
    if settings.high is not None:
        keep &= margin <= settings.high
    if settings.least is not None:
        keep &= pairs.scores[settings.reward].max(1) >= settings.least
    if settings.agrees:
        keep &= gap * (pairs.preference - 0.5) > 0
    return Change(keep=keep)
