"""ReFL (Xu et al. 2023, ImageReward): score the clean image predicted at one late step of a rollout from noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import reward_gradient
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings, check_stochastic, check_window
from stages.finetune.window import Windowed

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("ReFL", "Xu et al. 2023 (ImageReward), arXiv 2304.05977", family="reward gradient")


class Settings(Windowed):
    """ReFL's own keys, and the window."""

    diffusion_weight: float = Field(
        default=0.0, ge=0, description="weight of the diffusion loss on real images at index m"
    )
    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the KL divergence from the base, in nats per latent element and step"
    )

    @property
    def needs(self) -> Needs:
        """Real images for the diffusion loss only, the base for the divergence only."""
        return Needs(data="images" if self.diffusion_weight else "prompts", reference=self.kl_weight > 0)

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid, whose steps are stochastic where their divergence is asked for."""
        check_stochastic(self.kl_weight, train)
        if not self.auto:
            check_window("middle", self.window, train.sampling_steps)


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """One micro-batch of ReFL: the reward scores one prediction of the rollout."""
    return step_with(networks, batch, batch.draw(settings.window), settings.diffusion_weight, settings.kl_weight)


def step_with(networks: Networks, batch: Batch, m: int, diffusion_weight: float, kl_weight: float = 0.0) -> Step:
    """Roll out to index m without gradient, predict x0 [B, C, h, w] there with gradient.

    With weights: the diffusion loss on real images at m, and the divergence from the base at one of the indices up to
    m, drawn evenly (ReFL+KL). Both are known before the end of the rollout.
    """
    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Prediction, Rollout
    from stages.finetune.trajectories.kl import kl_penalty

    x, start = batch.noise.initial(), 0
    penalties: dict[str, tuple[float, Tensor]] = {}
    if diffusion_weight:
        penalties["diffusion"] = diffusion_weight, networks.diffusion_error(batch, m)
    if kl_weight:
        index = batch.draw((0, m + 1))
        x, start = (yield Rollout(x, start, index, penalties=penalties)), index
        penalties = {"kl": (kl_weight, kl_penalty(networks, batch, x, index))}
    x = yield Rollout(x, start, m, penalties=penalties)
    prediction = yield Prediction(x, m)
    return StepOutput(networks.grid.x0(x, prediction, m), batch.prompts)


METHOD = reward_gradient(Settings, step)
