"""DRaFT-K (Clark et al. 2024): the reward's gradient through the last K steps of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import reward_gradient
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings, MethodSettings, check_stochastic

if TYPE_CHECKING:
    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("DRaFT-K", "Clark et al. 2024, arXiv 2309.17400", family="reward gradient", label="DRaFT-{k}")


class Settings(MethodSettings):
    """DRaFT-K's own keys."""

    k: int = Field(default=1, ge=1, description="number K of last sampling steps that carry gradient")
    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the KL divergence from the base, in nats per latent element and step"
    )

    @property
    def needs(self) -> Needs:
        """The base for the divergence only."""
        return Needs(reference=self.kl_weight > 0)

    def check(self, train: FinetuneSettings) -> None:
        """There are at least K steps, and they are stochastic where their divergence is asked for."""
        check_stochastic(self.kl_weight, train)
        if self.k > train.sampling_steps:
            raise ValueError(f"k {self.k} is more than sampling_steps {train.sampling_steps}")


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """One micro-batch of DRaFT-K: the reward scores the end of the rollout."""
    return step_with(networks, batch, settings.k, settings.kl_weight)


def step_with(networks: Networks, batch: Batch, k: int, kl_weight: float = 0.0) -> Step:
    """Roll out to the last K steps without gradient, then K steps with gradient; the last one gives x0.

    With a weight, the divergence from the base at one of all steps, drawn evenly, is a penalty (DRaFT+KL).
    """
    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Rollout
    from stages.finetune.trajectories.kl import kl_penalty

    first = len(networks.grid) - k  # with gradient
    if not kl_weight:
        x = yield Rollout(batch.noise.initial(), 0, first)
        return StepOutput(networks.finish(batch, x, first), batch.prompts)
    index = batch.draw((0, len(networks.grid)))
    if index < first:
        x = yield Rollout(batch.noise.initial(), 0, index)
        x = yield Rollout(x, index, first, penalties={"kl": (kl_weight, kl_penalty(networks, batch, x, index))})
        return StepOutput(networks.finish(batch, x, first), batch.prompts)
    x = yield Rollout(batch.noise.initial(), 0, first)
    x = networks.steps(batch, x, first, index)
    penalties = {"kl": (kl_weight, kl_penalty(networks, batch, x, index))}
    return StepOutput(networks.finish(batch, x, index), batch.prompts, penalties)


METHOD = reward_gradient(Settings, step)
