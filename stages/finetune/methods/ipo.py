"""IPO (Azar et al. 2024): the margin of every pair is regressed to 1 / (2 tau)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import PairSettings
from stages.finetune.family import paired_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("IPO", "Azar et al. 2024, arXiv 2310.12036", family="preference")


class Settings(PairSettings):
    """IPO's own keys."""

    tau: float = Field(default=500.0, gt=0, description="the margin is regressed to 1 / (2 tau)")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """(margin - 1 / (2 tau))^2."""
    from stages.finetune.objective import Loss

    return Loss.of(pairs.mean((pairs.margin - 1 / (2 * settings.tau)).square()))


METHOD = paired_preference(Settings, loss)
