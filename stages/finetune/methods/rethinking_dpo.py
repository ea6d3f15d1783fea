"""Rethinking-DPO (2025): Diffusion-DPO whose reference follows the policy, with a penalty that keeps the policy near
the base, and errors weighted by timestep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import ReferenceSettings, TimestepSettings
from stages.finetune.families.pair_variants import AnchoredSettings
from stages.finetune.family_pairs import anchored_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout(
    "Rethinking-DPO", "rethinking direct preference optimization in diffusion models, 2025", family="preference"
)


class Settings(AnchoredSettings):
    """Rethinking-DPO's own keys. No number of the source could be verified: every default is ours."""

    reference: ReferenceSettings = Field(
        default_factory=lambda: ReferenceSettings(kind="ema", decay=0.99),
        description="an average of the policy's weights, or a copy that is renewed (kind hard); decay ours",
    )
    timesteps: TimestepSettings = Field(
        default_factory=lambda: TimestepSettings(weight="debiased"),
        description="law and weight of timesteps; the weight, larger where there is more noise, is ours",
    )
    beta: float = Field(default=2000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; ours")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 margin) + anchor_weight mean (policy - base)^2."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    assert pairs.anchor is not None
    preference, anchor = pairs.mean(logistic(pairs.margin, settings.beta)), pairs.anchor.mean()
    return Loss.of(preference, loss_preference=preference).plus(settings.anchor_weight, anchor, anchor=anchor)


METHOD = anchored_preference(Settings, loss)
