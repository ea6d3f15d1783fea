"""PSO (Miao et al. 2024): pairwise preference between rollouts of a distilled model in few steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.distilled_settings import DistilledSettings
from stages.finetune.family import distilled_rollouts

if TYPE_CHECKING:
    from stages.finetune.families.step_preference import StepPairs
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("PSO", "pairwise sample optimization, Miao et al. 2024, arXiv 2410.03190", family="preference")


class Settings(DistilledSettings):
    """PSO's own keys."""

    beta: float = Field(default=50.0, gt=0, description="as released")


def loss(pairs: StepPairs, settings: Settings) -> Loss:
    """-log sigmoid(beta (log rho_w - log rho_l)), the ratios to the distilled model clipped."""
    from stages.finetune.losses.step_preference import clipped_preference

    return clipped_preference(pairs, settings.beta, settings.clip)


METHOD = distilled_rollouts(Settings, loss)
