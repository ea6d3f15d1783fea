"""SPIN-Diffusion (Yuan et al. 2024): real images are preferred to those of the previous iterate of the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import ImagePairSettings, ReferenceSettings
from stages.finetune.family import self_play
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("SPIN-Diffusion", "Yuan et al. 2024, arXiv 2402.10210", family="preference")


class Settings(ImagePairSettings):
    """SPIN-Diffusion's own keys."""

    reference: ReferenceSettings = Field(
        default_factory=lambda: ReferenceSettings(kind="hard", every=25),
        description="the previous iterate: it samples the losers and is the reference; renewed every 25 steps (ours)",
    )
    beta: float = Field(default=2000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; ours")

    def check(self, train: FinetuneSettings) -> None:
        """There is a reference that samples."""
        super().check(train)
        if self.reference.kind not in ("frozen", "hard"):
            raise ValueError(f"reference.kind {self.reference.kind}: expected hard or frozen, which sample the losers")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 margin) of real images over sampled ones."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    return Loss.of(pairs.mean(logistic(pairs.margin, settings.beta)))


METHOD = self_play(Settings, loss)
