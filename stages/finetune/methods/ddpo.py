"""DDPO (Black et al. 2024, arXiv 2305.13301): policy gradient on the sampling steps; with a KL weight, DDPO+KL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.settings import AdvantageSettings
from stages.finetune.family import policy_gradient
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from stages.finetune.families.policy_gradient import StepDensities
    from stages.finetune.objective import Loss

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


def loss(steps: StepDensities, settings: Settings) -> Loss:
    """PPO's loss -min(A rho, A clip(rho)) with the ratio rho of each step (DDPO-IS), or -A log p of it (DDPO-SF)."""
    from stages.finetune.losses.ddpo import clipped_step_loss, score_loss

    if settings.estimator == "score":
        return score_loss(steps, settings.largest_advantage)
    return clipped_step_loss(steps, settings.clip, settings.largest_advantage)


METHOD = policy_gradient(Settings, loss)
