"""PPD (Dang et al. 2025): Diffusion-DPO whose policy is told which annotator judged a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import PersonalSettings
from stages.finetune.family_pairs import personal_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("PPD", "Dang et al. 2025, arXiv 2501.06655", family="preference")


class Settings(PersonalSettings):
    """PPD's own keys."""

    beta: float = Field(default=5000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; ours")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 margin), the policy's errors being those for the annotator of each pair."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    return Loss.of(pairs.mean(logistic(pairs.margin, settings.beta)))


METHOD = personal_preference(Settings, loss)
