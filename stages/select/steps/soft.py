"""Soft label from a reward (SmPO, Lu et al. 2025, arXiv 2506.02698): sigmoid of the difference of two scores."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from scipy.special import expit

from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """The reward, and which difference of its scores counts as clear."""

    LABELS: ClassVar[bool] = True

    reward: str = Field(description="the reward, of score.rewards")
    range: float = Field(
        gt=0,
        description="a difference of scores of this size has probability 0.73; the release divides PickScore's cosines "
        "by 0.28201571106910706 - 0.11543526500463486 = 0.16658",
    )

    def rewards(self) -> tuple[str, ...]:
        """The reward."""
        return (self.reward,)


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs with labels sigmoid((score of a - score of b) / range)."""
    return Change(preference=expit(pairs.gap(settings.reward) / settings.range))
