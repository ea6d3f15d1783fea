"""DRaFT-LV (Clark et al. 2024): DRaFT-1 with lower variance, by judging the last step on several fresh noises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import MethodSettings

if TYPE_CHECKING:
    from stages.finetune.batch import Batch, Judged, Rollout
    from stages.finetune.tools import Tools

ABOUT = MethodAbout("DRaFT-LV", "Clark et al. 2024, arXiv 2309.17400", family="reward gradient")


class Settings(MethodSettings):
    """DRaFT-LV's own keys."""

    renoise: int = Field(
        default=2, ge=1, description="how many times the clean image is noised again for the last step"
    )


def ahead(tools: Tools, batch: Batch, settings: Settings) -> Rollout | None:
    """To the last index."""
    return tools.to_index(batch, len(tools.grid) - 1)


def step(tools: Tools, batch: Batch, settings: Settings) -> Judged:
    """Sample to the end, noise the result to the last index n times, and judge each prediction from there."""
    import torch

    from stages.finetune.batch import Judged

    last = len(tools.grid) - 1
    first = tools.x0(batch, tools.from_noise(batch, last), last)
    judged = [first]
    for n in range(settings.renoise):
        again = tools.grid.noised(first.detach(), batch.noise.extra(f"renoise {n}"), last)
        judged.append(tools.x0(batch, again, last))
    return Judged(torch.cat(judged), [*batch.prompts] * len(judged))
