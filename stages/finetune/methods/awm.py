"""AWM (advantage weighted matching, Xue et al. 2025): the diffusion loss on own images, weighted by their advantage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.settings import AdvantageSettings
from stages.finetune.family import matching
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from stages.finetune.families.matching import Matched
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("AWM", "Xue et al. 2025", family="matching")


class Settings(AdvantageSettings):
    """AWM's own keys."""

    clip: float = Field(
        default=0.1, gt=0, description="the ratio exp(old error - new error) is clipped to 1 plus and minus this"
    )
    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the mean squared difference between predictions of policy and base"
    )

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """An optimizer step learns from images, whatever the sampling steps."""
        size = train.batch_size // train.accumulate
        return {"images": size, "images of an update": size // self.updates}


def loss(images: Matched, settings: Settings) -> Loss:
    """-min(A rho, A clip(rho)),  rho = exp(l - l_old) with l minus the error of each image."""
    from stages.finetune.losses.ddpo import clipped_loss
    from stages.finetune.objective import Loss

    clipped = clipped_loss(
        -images.error, -images.old_error, images.advantage, settings.clip, settings.largest_advantage
    )
    return Loss.of(clipped.loss, ratio=clipped.ratio.mean())


METHOD = matching(Settings, loss)
