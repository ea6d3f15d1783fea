"""Reward-weighted fine-tuning: the denoising error of curated images, weighted by exp(reward / temperature)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import ReferenceSettings, UnpairedSettings
from stages.finetune.family import weighted_images
from stages.finetune.needs import Needs

if TYPE_CHECKING:
    from stages.finetune.families.unpaired import ImageErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout(
    "Reward-weighted SFT", "Peters and Schaal 2007; Lee et al. 2023, arXiv 2302.12192", family="preference"
)


class Settings(UnpairedSettings):
    """The temperature; of every pair one image is taken, whoever prefers it."""

    reference: ReferenceSettings = Field(
        default_factory=lambda: ReferenceSettings(kind="none"),
        description="none; another one is evaluated for the log only",
    )
    temperature: float = Field(default=0.1, gt=0, description="in units of the reward; small: the best images alone")

    @property
    def needs(self) -> Needs:
        """The reward's number, whoever prefers the image."""
        return replace(super().needs, reward="value", ties=True)


def loss(images: ImageErrors, settings: Settings) -> Loss:
    """The weighted mean error of the images."""
    from stages.finetune.objective import Loss

    return Loss.of(images.mean(images.errors.policy))


METHOD = weighted_images(Settings, loss, lambda own: own.temperature)
