"""DMPO (Li et al. 2025): the reverse divergence between the policy's preference and an almost certain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import PairSettings
from stages.finetune.family import paired_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("DMPO", "Li et al. 2025, divergence minimization preference optimization", family="preference")
LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1, as in the released code."""


class Settings(PairSettings):
    """DMPO's own keys."""

    beta: float = Field(
        default=2000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; released: 2000, SDXL 6000"
    )
    alpha: float = Field(default=0.01, gt=0, lt=0.5, description="the preferred probability is 1 - alpha")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """KL(Bernoulli(P) || Bernoulli(1 - alpha)), P = sigmoid(beta / 2 margin)."""
    import torch

    from stages.finetune.objective import Loss

    found = torch.sigmoid(settings.beta / 2 * pairs.margin).clamp(LEAST, 1 - LEAST)
    wanted = 1 - settings.alpha
    divergence = found * (found / wanted).log() + (1 - found) * ((1 - found) / settings.alpha).log()
    return Loss.of(pairs.mean(divergence))


METHOD = paired_preference(Settings, loss)
