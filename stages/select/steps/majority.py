"""Label by majority vote of rewards (BalancedDPO, Tamboli et al. 2025, arXiv 2503.12575).

The preferred image is the one that more of the rewards score higher: the sign of the sum over rewards of
sign(score of a - score of b). The paper names no code; what becomes of an even vote is ours.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from stages.select.pairs import Pairs, distinct
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """Who votes, and what the vote means."""

    LABELS: ClassVar[bool] = True

    by: tuple[str, ...] = Field(min_length=1, description="the rewards that vote, of score.rewards")
    label: Literal["winner", "share"] = Field(
        default="winner", description="probability 1 for the image with more votes, or its share of the votes"
    )
    even: Literal["tie", "as_judged"] = Field(
        default="tie", description="of an even vote: probability 1/2, or the label that the pair has"
    )

    @field_validator("by")
    @classmethod
    def _once(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        if not distinct(by):
            raise ValueError(f"expected every reward once, found {list(by)}")
        return by

    def rewards(self) -> tuple[str, ...]:
        """The voters."""
        return self.by


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs with the voters' labels."""
    votes = np.sum([np.sign(pairs.gap(name)) for name in settings.by], axis=0)
    share = votes / len(settings.by) if settings.label == "share" else np.sign(votes)
    even = pairs.preference if settings.even == "as_judged" else 0.5
    return Change(preference=np.where(votes == 0, even, (1 + share) / 2))
