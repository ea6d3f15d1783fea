"""AlignProp (Prabhudesai et al. 2023): the reward's gradient through a randomly truncated sampling chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import reward_gradient
from stages.finetune.methods import draft_k
from stages.finetune.settings import FinetuneSettings, MethodSettings, check_window

if TYPE_CHECKING:
    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("AlignProp", "Prabhudesai et al. 2023, arXiv 2310.03739", family="reward gradient")


class Settings(MethodSettings):
    """AlignProp's own keys."""

    truncate: tuple[int, int] = Field(
        (1, 5), description="K, the last steps with gradient, from truncate[0] <= K < truncate[1]"
    )

    def check(self, train: FinetuneSettings) -> None:
        """The window names possible numbers of steps."""
        check_window("truncate", self.truncate, train.sampling_steps + 1, low=1)


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """One micro-batch: DRaFT-K with K drawn for it (predictions before a random step carry no gradient)."""
    return draft_k.judge(networks, batch, batch.draw(settings.truncate))


METHOD = reward_gradient(Settings, step)
