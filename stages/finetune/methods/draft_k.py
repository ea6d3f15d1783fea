"""DRaFT-K (Clark et al. 2024): the reward's gradient through the last K steps of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings, MethodSettings, check_stochastic

if TYPE_CHECKING:
    from stages.finetune.batch import Batch, Judged, Rollout
    from stages.finetune.tools import Tools

ABOUT = MethodAbout("DRaFT-K", "Clark et al. 2024, arXiv 2309.17400", family="reward gradient", label="DRaFT-{k}")


class Settings(MethodSettings):
    """DRaFT-K's own keys."""

    k: int = Field(default=1, ge=1, description="last steps that carry gradient")
    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the KL divergence from the base, in nats a number and sampling step"
    )

    def check(self, train: FinetuneSettings) -> None:
        """There are at least K steps, and they are stochastic where their divergence is asked for."""
        check_stochastic(self.kl_weight, train)
        if self.k > train.sampling_steps:
            raise ValueError(f"k {self.k} is more than sampling_steps {train.sampling_steps}")


def ahead(tools: Tools, batch: Batch, settings: Settings) -> Rollout | None:
    """To the first step with gradient, unless the rollout is watched on its way."""
    return None if settings.kl_weight else tools.to_index(batch, len(tools.grid) - settings.k)


def step(tools: Tools, batch: Batch, settings: Settings) -> Judged:
    """One micro-batch of DRaFT-K."""
    return judge(tools, batch, settings.k, settings.kl_weight)


def judge(tools: Tools, batch: Batch, k: int, kl_weight: float = 0.0) -> Judged:
    """Roll out to the last K steps without gradient, then K steps with gradient; the last one gives x0.

    With a weight, the divergence from the base at one of all steps is a penalty (DRaFT+KL).
    """
    from stages.finetune.batch import Judged

    start = len(tools.grid) - k
    if not kl_weight:
        return Judged(tools.chain(batch, tools.from_noise(batch, start), start), batch.prompts)
    from stages.finetune.trajectory.nearness import Watched

    watched = Watched.draw(batch, len(tools.grid))
    x = tools.rollout(batch, batch.noise.initial(), 0, start, seen=watched)
    x0 = tools.chain(batch, x, start, watched)
    return Judged(x0, batch.prompts, watched.penalty(tools, batch, kl_weight))
