"""NCP-DPO (Gambashidze et al. 2024): Diffusion-DPO on errors in the feature space of the frozen UNet's first half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import PerceptualSettings
from stages.finetune.family_pairs import perceptual_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("NCP-DPO", "Gambashidze et al. 2024, arXiv 2406.17636", family="preference")


class Settings(PerceptualSettings):
    """NCP-DPO's own keys; with `reference: {kind: none}` it is NCP-CPO."""

    beta: float = Field(
        default=5000.0,
        gt=0,
        description="as Diffusion-DPO's, half of it enters the loss; the release has no half, so that its 2500 is 5000",
    )


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 margin), the margin of errors in feature space."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    return Loss.of(pairs.mean(logistic(pairs.margin, settings.beta)))


METHOD = perceptual_preference(Settings, loss)
