"""Supervised fine-tuning on the preferred images of pairs: the denoising error, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import PreferenceDataSettings, ReferenceSettings
from stages.finetune.family import liked_images

if TYPE_CHECKING:
    from stages.finetune.families.unpaired import ImageErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("SFT", "denoising loss on preferred images", family="preference")


class Settings(PreferenceDataSettings):
    """Only what the family has."""

    reference: ReferenceSettings = Field(
        default_factory=lambda: ReferenceSettings(kind="none"),
        description="none; another one is evaluated for the log only",
    )


def loss(images: ImageErrors, settings: Settings) -> Loss:
    """The mean error of the preferred images."""
    from stages.finetune.objective import Loss

    return Loss.of(images.mean(images.errors.policy))


METHOD = liked_images(Settings, loss)
