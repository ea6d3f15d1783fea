"""DCPO: Diffusion-DPO whose two images have a caption each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import DualCaptionSettings
from stages.finetune.family_pairs import dual_captions

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("DCPO", "dual caption preference optimization for diffusion models", family="preference")


class Settings(DualCaptionSettings):
    """DCPO's own keys."""

    beta: float = Field(default=5000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; ours")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 margin) of the winner with its caption over the loser with the other one."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    return Loss.of(pairs.mean(logistic(pairs.margin, settings.beta)))


METHOD = dual_captions(Settings, loss)
