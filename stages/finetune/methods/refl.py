"""ReFL (Xu et al. 2023, ImageReward): judge the clean image predicted at one late step of a rollout from noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.finetune.settings import FinetuneSettings, MethodSettings, check_window

if TYPE_CHECKING:
    from stages.finetune.batch import Batch, Judged
    from stages.finetune.tools import Tools


class Settings(MethodSettings):
    """ReFL's own keys."""

    middle: tuple[int, int] = Field(
        default=(15, 20), description="the judged index m is drawn from middle[0] <= m < middle[1]"
    )
    diffusion_weight: float = Field(
        default=0.0, ge=0, description="weight of the diffusion loss on real images at index m"
    )

    @property
    def data(self) -> Literal["prompts", "images"]:
        """Real images are needed for the diffusion loss only."""
        return "images" if self.diffusion_weight else "prompts"

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid."""
        check_window("middle", self.middle, train.sampling_steps)


def step(tools: Tools, batch: Batch, settings: Settings) -> Judged:
    """One micro-batch of ReFL."""
    return judge(tools, batch, batch.draw(settings.middle), settings.diffusion_weight)


def judge(tools: Tools, batch: Batch, m: int, diffusion_weight: float) -> Judged:
    """Roll out to index m without gradient, predict x0 there with gradient; ImageReFL's code, refl_trainer.py."""
    from stages.finetune.batch import Judged

    x = tools.rollout(batch, batch.noise.initial(), 0, m)
    x0 = tools.x0(batch, x, m)
    if not diffusion_weight:
        return Judged(x0, batch.prompts)
    return Judged(x0, batch.prompts, {"diffusion": (diffusion_weight, tools.diffusion_error(batch, m))})
