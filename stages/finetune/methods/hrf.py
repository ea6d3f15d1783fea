"""HRF (hierarchical reward fine-tuning; Barcelo et al. 2024): DDPO on a window of steps that moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.settings import AdvantageSettings
from stages.finetune.family import policy_gradient
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from stages.finetune.families.policy_gradient import StepDensities
    from stages.finetune.objective import Loss

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


def loss(steps: StepDensities, settings: Settings) -> Loss:
    """DDPO's clipped loss."""
    from stages.finetune.losses.ddpo import clipped_step_loss

    return clipped_step_loss(steps, settings.clip, settings.largest_advantage)


def window(count: int, step: int, settings: Settings) -> range:
    """The window of `count` sampling steps at optimizer step `step`: it stays for `hold` collections, moves from noise
    to image, and starts again at the end.
    """
    places = range(0, count - settings.window + 1, settings.move)
    start = places[step // (settings.lasting * settings.hold) % len(places)]
    return range(start, start + settings.window)


METHOD = policy_gradient(Settings, loss, window=window)
