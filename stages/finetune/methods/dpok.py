"""DPOK (Fan et al. 2023, arXiv 2305.16381): policy gradient with a baseline, the KL divergence in the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectory.settings import AdvantageSettings

if TYPE_CHECKING:
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("DPOK", "Fan et al. 2023, arXiv 2305.16381", family="policy gradient")


class Settings(AdvantageSettings):
    """DPOK's own keys. Its value network is replaced by the mean reward of the prompt so far."""

    kl_weight: float = Field(
        default=0.01, gt=0, description="weight of the KL divergence from the base, in nats a number and sampling step"
    )
    reward_weight: float = Field(default=100.0, gt=0, description="factor of the advantage, which is not normalised")

    def check(self, train: FinetuneSettings) -> None:
        """Only the history of prompts serves as the baseline."""
        super().check(train)
        if self.advantage != "prompt":
            raise ValueError(f"the baseline is the prompt's history, expected advantage prompt, found {self.advantage}")


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    from stages.finetune.trajectory.clipped import Dpok

    return Dpok(settings, train.accumulate)
