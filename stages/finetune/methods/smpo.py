"""SmPO (Lu et al. 2025): smoothed preference, a margin that counts by how sure it is, on inverted images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import NoisingSettings, PairSettings
from stages.finetune.family import paired_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("SmPO-Diffusion", "Lu et al. 2025, arXiv 2506.02698", family="preference")


class Settings(PairSettings):
    """SmPO's own keys."""

    noising: NoisingSettings = Field(
        default_factory=lambda: NoisingSettings(kind="inversion", steps=5, noise=0.0, average=True),
        description="inversion on 5 levels without noise and with averaged predictions, as released (SDXL: 10)",
    )
    beta: float = Field(
        default=2000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; released: 2000, SDXL 5000"
    )
    scale: float = Field(default=10.0, gt=0, description="of 2 p - 1, p being the probability of the pair's label")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 scale (2 p - 1) margin): a pair of p = 1/2 has no gradient."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    return Loss.of(pairs.mean(logistic(settings.scale * (2 * pairs.label - 1) * pairs.margin, settings.beta)))


METHOD = paired_preference(Settings, loss)
