"""Diffusion-DRO (2025): expert images are ranked above states of the policy's own trajectories, by a hinge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import ExpertSettings
from stages.finetune.family_pairs import ranked_experts

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout(
    "Diffusion-DRO", "ranking-based preference optimization from implicit user feedback, 2025", family="preference"
)


class Settings(ExpertSettings):
    """Diffusion-DRO's own keys."""

    margin: float = Field(default=0.001, ge=0, description="by which the expert's error is to be lower, as released")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """max(0, margin - m), m the log ratio of the expert image less that of the policy's state."""
    from stages.finetune.objective import Loss

    short = (settings.margin - pairs.margin).clamp(min=0)
    return Loss.of(pairs.mean(short), active=(short > 0).float().mean())


METHOD = ranked_experts(Settings, loss)
