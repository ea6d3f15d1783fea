"""LPO (Zhang et al. 2025, arXiv 2502.01051): best against worst candidate by a reward of noisy latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.latent_settings import LatentCandidateSettings
from stages.finetune.family import latent_candidates

if TYPE_CHECKING:
    from stages.finetune.families.step_preference import StepPairs
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("LPO", "Zhang et al. 2025, arXiv 2502.01051", family="preference")


class Settings(LatentCandidateSettings):
    """The keys of its family, with the released strength."""

    beta: float = Field(
        default=500.0, gt=0, description="how strongly a preferred step must be more likely than the other"
    )


def loss(pairs: StepPairs, settings: Settings) -> Loss:
    """-log sigmoid(beta (log rho_w - log rho_l)), the ratios to the base clipped."""
    from stages.finetune.losses.step_preference import clipped_preference

    return clipped_preference(pairs, settings.beta, settings.clip)


METHOD = latent_candidates(Settings, loss)
