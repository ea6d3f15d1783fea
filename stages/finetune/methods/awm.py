"""AWM (advantage weighted matching, Xue et al. 2025): the diffusion loss on own images, weighted by their advantage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.settings import AdvantageSettings
from stages.finetune.family import matching
from stages.finetune.settings import FinetuneSettings
from stages.params import Settings as Section

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.matching import Matched
    from stages.finetune.families.policy_gradient import Collected
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("AWM", "Xue et al. 2025", family="matching")


LEAST = 1e-10  # keeps the slope of a root finite where the error is 0
SPREAD = 1e-4  # added to the standard deviation of rewards


class AsReleased(Section):
    """Advantages as the released code takes them; off."""

    deviation: Literal["prompt", "batch"] | None = Field(
        default=None,
        description="rewards less their prompt's mean are divided by 1e-4 plus this standard deviation; null: by "
        "`advantage`",
    )
    advantage_max: float | None = Field(
        default=None, gt=0, description="clamped advantages are scaled to plus and minus this; null: not scaled"
    )


class Settings(AdvantageSettings):
    """AWM's own keys."""

    clip: float = Field(
        default=0.1,
        gt=0,
        description="the ratio exp(l - old l), l by `likeness`, is clipped to 1 plus and minus this",
    )
    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the mean squared difference between predictions of policy and base"
    )

    likeness: Literal["error", "t", "t2", "huber", "ghuber"] = Field(
        default="error",
        description="l: minus the error, minus the error times the noise's time t or t^2, or minus a root of the error",
    )
    power: float = Field(default=0.25, gt=0, le=1, description="the root of `likeness: ghuber`")
    as_released: AsReleased = Field(default_factory=AsReleased)

    def check(self, train: FinetuneSettings) -> None:
        """The released standard deviation is that of a prompt's history or of the batch."""
        super().check(train)
        if self.as_released.deviation is not None and self.advantage != "prompt":
            raise ValueError(
                f"as_released.deviation takes the prompt's history, expected advantage prompt, found {self.advantage}"
            )

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """An optimizer step learns from images, whatever the sampling steps."""
        size = train.batch_size // train.accumulate
        return {"images": size, "images of an update": size // self.updates}


def likeness(error: Tensor, time: Tensor, settings: Settings) -> Tensor:
    """l [N] of errors e [N] at times t [N] in [0, 1] of the noise (scxue/advantage_weighted_matching):

    -e, -e t, -e t^2, -(sqrt(e + 1e-10) - 1e-5) t, or -((e + 1e-10)^p - 1e-10^p) t / p.
    """
    if settings.likeness in ("huber", "ghuber"):
        power = 0.5 if settings.likeness == "huber" else settings.power
        root = (error + LEAST) ** power - LEAST**power
        return -root * time if settings.likeness == "huber" else -root * time / power
    return -error * {"error": 1.0, "t": time, "t2": time**2}[settings.likeness]


def advantages(collected: Collected, settings: Settings) -> Tensor:
    """Advantages [N] as the study says, or as the released code has them; those are clamped, then scaled."""
    from stages.finetune.families.policy_gradient import normalised_advantages

    released, largest = settings.as_released, settings.largest_advantage
    if released.deviation is None:
        found = normalised_advantages(collected, settings)
    else:
        collected.history.add(collected.rewards, collected.prompts)
        mean, spread = collected.history.moments(collected.rewards, collected.prompts)
        if released.deviation == "batch":
            spread = collected.rewards.std(correction=0)
        found = (collected.rewards - mean) / (spread + SPREAD)
    return (
        found if released.advantage_max is None else found.clamp(-largest, largest) / largest * released.advantage_max
    )


def loss(images: Matched, settings: Settings) -> Loss:
    """-min(A rho, A clip(rho)),  rho = exp(l - l_old) with the likeness l of each image."""
    from stages.finetune.losses.ddpo import clipped_loss
    from stages.finetune.objective import Loss

    new, old = (likeness(error, images.time, settings) for error in (images.error, images.old_error))
    largest = settings.as_released.advantage_max or settings.largest_advantage  # scaled advantages are clamped already
    clipped = clipped_loss(new, old, images.advantage, settings.clip, largest)
    return Loss.of(clipped.loss, ratio=clipped.ratio.mean())


METHOD = matching(Settings, loss, advantages=advantages)
