"""Diffusion-DPO (Wallace et al. 2024): the preferred image of a pair becomes more likely than the other one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.settings import PairSettings
from stages.finetune.family import paired_preference

if TYPE_CHECKING:
    from stages.finetune.families.preference import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("Diffusion-DPO", "Wallace et al. 2024, arXiv 2311.12908", family="preference")


class Settings(PairSettings):
    """Diffusion-DPO's own keys."""

    beta: float = Field(
        default=5000.0, gt=0, description="the paper's beta times the number of timesteps; half of it enters the loss"
    )


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 (log ratio of the winner - log ratio of the loser)), log 2 at the start."""
    from torch.nn.functional import logsigmoid

    from stages.finetune.objective import Loss

    return Loss.of(-pairs.mean(logsigmoid(settings.beta / 2 * pairs.margin)))


METHOD = paired_preference(Settings, loss)
