"""Diffusion-DPO (Wallace et al. 2024): the preferred image of a pair becomes more likely than the other one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import PairSettings
from stages.finetune.family import paired_preference
from stages.finetune.needs import Needs

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("Diffusion-DPO", "Wallace et al. 2024, arXiv 2311.12908", family="preference")


class Settings(PairSettings):
    """Diffusion-DPO's own keys."""

    beta: float = Field(
        default=5000.0, gt=0, description="the paper's beta times the number of timesteps; half of it enters the loss"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of preferences that are taken to be wrong (conservative DPO)"
    )
    robust: bool = Field(default=False, description="with label_smoothing: the unbiased loss of robust DPO instead")
    soft_labels: bool = Field(
        default=False, description="the probability of each pair's preference in place of label_smoothing"
    )

    @property
    def needs(self) -> Needs:
        """A tie is a label like others where labels are probabilities."""
        needs = super().needs
        return replace(needs, ties=needs.ties or self.soft_labels)

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Settings:
        if self.soft_labels and (self.label_smoothing or self.robust):
            raise ValueError("soft_labels takes the place of label_smoothing and robust, expected one of them")
        if self.robust and not self.label_smoothing:
            raise ValueError("robust needs a label_smoothing above 0")
        return self


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 (log ratio of the winner - log ratio of the loser)), log 2 at the start; or its
    conservative or robust form.
    """
    from stages.finetune.losses.pairs import logistic, robust
    from stages.finetune.objective import Loss

    if settings.robust:
        return Loss.of(pairs.mean(robust(pairs.margin, settings.beta, settings.label_smoothing)))
    right = pairs.label if settings.soft_labels else 1.0 - settings.label_smoothing
    return Loss.of(pairs.mean(logistic(pairs.margin, settings.beta, right)))


METHOD = paired_preference(Settings, loss)
