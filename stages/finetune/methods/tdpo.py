"""TDPO (2025): an image is more likely given its own caption than given another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import TextPairSettings
from stages.finetune.family_pairs import text_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("TDPO", "free lunch alignment by text preference optimization, 2025", family="preference")


class Settings(TextPairSettings):
    """TDPO's own keys."""

    beta: float = Field(default=2000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; ours")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 margin) of the image's own caption over the other one."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    return Loss.of(pairs.mean(logistic(pairs.margin, settings.beta)))


METHOD = text_preference(Settings, loss)
