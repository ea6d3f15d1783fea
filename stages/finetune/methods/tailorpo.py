"""TailorPO (Ren et al. 2025, arXiv 2502.01667): at a step, the better of two next states drawn from one state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectory.settings import CollectionSettings

if TYPE_CHECKING:
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("TailorPO", "Ren et al. 2025, arXiv 2502.01667", family="preference")


class Settings(CollectionSettings):
    """TailorPO's own keys. `steps_per_trajectory` says at how many steps pairs are drawn and judged; null: all."""

    beta: float = Field(
        default=1.0, gt=0, description="how strongly a preferred step must be more likely than the other"
    )
    clip: float = Field(default=0.1, gt=0, lt=1, description="ratios to the base are clipped to 1 plus and minus this")
    follow: Literal["better", "random"] = Field(
        default="better", description="the next state that a rollout goes on from"
    )
    guidance: float = Field(
        default=0.0, ge=0, description="preferred states are moved by this times the reward's gradient (TailorPO-G)"
    )

    @property
    def needs_gradient(self) -> bool:
        """Only where preferred states are moved."""
        return self.guidance > 0


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    from stages.finetune.trajectory.pairs import TailorPo

    return TailorPo(settings, train.accumulate)
