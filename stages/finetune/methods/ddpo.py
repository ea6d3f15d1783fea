"""DDPO (Black et al. 2024, arXiv 2305.13301): policy gradient on the sampling steps; with a KL weight, DDPO+KL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectory.settings import AdvantageSettings

if TYPE_CHECKING:
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("DDPO", "Black et al. 2024, arXiv 2305.13301", family="policy gradient")


class Settings(AdvantageSettings):
    """DDPO's own keys."""

    estimator: Literal["importance", "score"] = Field(
        default="importance", description="clipped ratio of densities (DDPO-IS), or the score function (DDPO-SF)"
    )

    def check(self, train: FinetuneSettings) -> None:
        """The score function is right for the policy that made the rollouts only."""
        super().check(train)
        if self.estimator == "score" and self.lasting > 1:
            raise ValueError("estimator score learns from a collection once, expected updates 1 and epochs 1")


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    from stages.finetune.trajectory.clipped import Ddpo

    return Ddpo(settings, train.accumulate)
