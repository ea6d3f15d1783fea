"""DPOK (Fan et al. 2023, arXiv 2305.16381): policy gradient with a baseline, the KL divergence in the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.settings import AdvantageSettings
from stages.finetune.family import policy_gradient
from stages.finetune.settings import FinetuneSettings
from stages.params import Settings as Section

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.policy_gradient import Collected, StepDensities
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("DPOK", "Fan et al. 2023, arXiv 2305.16381", family="policy gradient")


class AsReleased(Section):
    """What the released code does and the paper does not say; off."""

    squared_predictions: bool = Field(
        default=False,
        description="kl_weight weighs the mean squared difference of the guided predictions of policy and base",
    )


class Settings(AdvantageSettings):
    """DPOK's own keys. Its value network is replaced by the mean reward of the prompt so far."""

    kl_weight: float = Field(
        default=0.01, gt=0, description="weight of the KL divergence from the base, in nats per latent element and step"
    )
    reward_weight: float = Field(default=100.0, gt=0, description="factor of the advantage, which is not normalised")
    as_released: AsReleased = Field(default_factory=AsReleased)

    def check(self, train: FinetuneSettings) -> None:
        """Only the history of prompts serves as the baseline."""
        super().check(train)
        if self.advantage != "prompt":
            raise ValueError(f"the baseline is the prompt's history, expected advantage prompt, found {self.advantage}")


def advantages(collected: Collected, settings: Settings) -> Tensor:
    """Rewards [N] less the mean of their prompts so far."""
    expected = collected.history.expected(collected.rewards, collected.prompts)
    collected.history.add(collected.rewards, collected.prompts)
    return collected.rewards - expected


def loss(steps: StepDensities, settings: Settings) -> Loss:
    """-w A clip(rho): where the ratio leaves its range there is no gradient, whatever the advantage."""
    from stages.finetune.objective import Loss

    ratio = steps.ratio
    kept = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    return Loss.of(-settings.reward_weight * (steps.advantage * kept).mean(), ratio=ratio.mean())


def squared(settings: Settings) -> bool:
    """Whether the divergence is the released one."""
    return settings.as_released.squared_predictions


METHOD = policy_gradient(Settings, loss, advantages=advantages, squared=squared)
