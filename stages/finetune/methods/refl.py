"""ReFL (Xu et al. 2023, ImageReward): judge the clean image predicted at one late step of a rollout from noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings, MethodSettings, check_stochastic, check_window

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.batch import Batch, Judged, Rollout
    from stages.finetune.tools import Tools

ABOUT = MethodAbout("ReFL", "Xu et al. 2023 (ImageReward), arXiv 2304.05977", family="reward gradient")


class Settings(MethodSettings):
    """ReFL's own keys."""

    middle: tuple[int, int] = Field(
        default=(15, 20), description="the judged index m is drawn from middle[0] <= m < middle[1]"
    )
    diffusion_weight: float = Field(
        default=0.0, ge=0, description="weight of the diffusion loss on real images at index m"
    )

    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the KL divergence from the base, in nats a number and sampling step"
    )

    @property
    def data(self) -> Literal["prompts", "images"]:
        """Real images are needed for the diffusion loss only."""
        return "images" if self.diffusion_weight else "prompts"

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid, whose steps are stochastic where their divergence is asked for."""
        check_stochastic(self.kl_weight, train)
        check_window("middle", self.middle, train.sampling_steps)


def ahead(tools: Tools, batch: Batch, settings: Settings) -> Rollout | None:
    """To the judged index, unless the rollout is watched on its way."""
    return None if settings.kl_weight else begin(tools, batch, batch.draw(settings.middle), settings.diffusion_weight)


def step(tools: Tools, batch: Batch, settings: Settings) -> Judged:
    """One micro-batch of ReFL."""
    m = batch.draw(settings.middle)
    if settings.kl_weight:
        return near(tools, batch, m, settings)
    return judge(tools, batch, m, settings.diffusion_weight)


def judge(tools: Tools, batch: Batch, m: int, diffusion_weight: float) -> Judged:
    """Roll out to index m without gradient, predict x0 there with gradient; ImageReFL's code, refl_trainer.py."""
    if batch.rolled is not None:
        return judged(tools, batch, batch.rolled.x, m, 0.0)
    return judged(tools, batch, tools.from_noise(batch, m), m, diffusion_weight)


def begin(tools: Tools, batch: Batch, m: int, diffusion_weight: float) -> Rollout:
    """The part of `judge` before its prediction: the rollout, and the diffusion loss at m."""
    begun = tools.to_index(batch, m)
    if not diffusion_weight:
        return begun
    return replace(begun, penalties={"diffusion": (diffusion_weight, tools.diffusion_error(batch, m))})


def near(tools: Tools, batch: Batch, m: int, settings: Settings) -> Judged:
    """The same with the divergence from the base at one of the steps up to m as a penalty (ReFL+KL)."""
    from stages.finetune.trajectory.nearness import Watched

    watched = Watched.draw(batch, m + 1)
    x = tools.rollout(batch, batch.noise.initial(), 0, m, seen=watched)
    watched(m, x)
    found = judged(tools, batch, x, m, settings.diffusion_weight)
    return replace(found, penalties=found.penalties | watched.penalty(tools, batch, settings.kl_weight))


def judged(tools: Tools, batch: Batch, x: Tensor, m: int, diffusion_weight: float) -> Judged:
    """The prediction from latents x that enter index m, and the diffusion loss there where it has a weight."""
    from stages.finetune.batch import Judged

    x0 = tools.x0(batch, x, m)
    if not diffusion_weight:
        return Judged(x0, batch.prompts)
    return Judged(x0, batch.prompts, {"diffusion": (diffusion_weight, tools.diffusion_error(batch, m))})
