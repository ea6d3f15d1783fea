"""SPO (Liang et al. 2024, arXiv 2406.04314): the best against the worst of several next states drawn from one state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.settings import CandidateSettings
from stages.finetune.family import candidate_rollouts

if TYPE_CHECKING:
    from stages.finetune.families.step_preference import StepPairs
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("SPO", "Liang et al. 2024, arXiv 2406.04314", family="preference")


class Settings(CandidateSettings):
    """The keys of its family, with the released strength."""

    beta: float = Field(
        default=10.0, gt=0, description="how strongly a preferred step must be more likely than the other"
    )


def loss(pairs: StepPairs, settings: Settings) -> Loss:
    """-log sigmoid(beta (log rho_w - log rho_l)), the ratios to the base clipped."""
    from stages.finetune.losses.step_preference import clipped_preference

    return clipped_preference(pairs, settings.beta, settings.clip)


METHOD = candidate_rollouts(Settings, loss)
