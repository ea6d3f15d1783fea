"""HRF (hierarchical reward fine-tuning; Barcelo et al. 2024): DDPO on a window of steps that moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectory.settings import AdvantageSettings

if TYPE_CHECKING:
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("HRF", "Barcelo et al. 2024", family="policy gradient")


class Settings(AdvantageSettings):
    """HRF's own keys."""

    window: int = Field(default=5, ge=1, description="sampling steps that are learnt from at a time")
    move: int = Field(default=5, ge=1, description="sampling steps by which the window moves, from noise to image")
    hold: int = Field(default=5, ge=1, description="collections of rollouts before the window moves")

    def learnt(self, train: FinetuneSettings) -> int:
        """No more than the window."""
        return min(super().learnt(train), self.window)

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid."""
        super().check(train)
        if self.window > train.sampling_steps:
            raise ValueError(f"window {self.window} is more than sampling_steps {train.sampling_steps}")


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    from stages.finetune.trajectory.clipped import Hrf

    return Hrf(settings, train.accumulate)
