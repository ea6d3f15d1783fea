"""DRaFT-K (Clark et al. 2024): the reward's gradient through the last K steps of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.finetune.settings import FinetuneSettings, MethodSettings

if TYPE_CHECKING:
    from stages.finetune.batch import Batch, Judged
    from stages.finetune.tools import Tools


class Settings(MethodSettings):
    """DRaFT-K's own keys."""

    k: int = Field(default=1, ge=1, description="last steps that carry gradient")

    def check(self, train: FinetuneSettings) -> None:
        """There are at least K steps."""
        if self.k > train.sampling_steps:
            raise ValueError(f"k {self.k} is more than sampling_steps {train.sampling_steps}")


def step(tools: Tools, batch: Batch, settings: Settings) -> Judged:
    """One micro-batch of DRaFT-K."""
    return judge(tools, batch, settings.k)


def judge(tools: Tools, batch: Batch, k: int) -> Judged:
    """Roll out to the last K steps without gradient, then K steps with gradient; the last one gives x0."""
    from stages.finetune.batch import Judged

    start = len(tools.grid) - k
    x = tools.rollout(batch, batch.noise.initial(), 0, start)
    return Judged(tools.chain(batch, x, start), batch.prompts)
