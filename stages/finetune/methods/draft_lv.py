"""DRaFT-LV (Clark et al. 2024): DRaFT-1 with lower variance, by scoring the last step on several fresh noises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import reward_gradient
from stages.finetune.settings import MethodSettings

if TYPE_CHECKING:
    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("DRaFT-LV", "Clark et al. 2024, arXiv 2309.17400", family="reward gradient")


class Settings(MethodSettings):
    """DRaFT-LV's own keys."""

    renoise: int = Field(
        default=2, ge=1, description="how many times the clean image is noised again for the last step"
    )


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """Sample to the end, noise the result to the last index n times, and judge each prediction from there."""
    import torch

    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Rollout

    last = len(networks.grid) - 1
    x = yield Rollout(batch.noise.initial(), 0, last)
    clean_latents = [networks.x0(batch, x, last)]
    clean = clean_latents[0].detach()
    for n in range(settings.renoise):
        again = networks.grid.noised(clean, batch.noise.extra(f"renoise {n}"), last)
        clean_latents.append(networks.x0(batch, again, last))
    return StepOutput(torch.cat(clean_latents), [*batch.prompts] * len(clean_latents))


METHOD = reward_gradient(Settings, step)
