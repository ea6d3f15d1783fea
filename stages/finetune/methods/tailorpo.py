"""TailorPO (Ren et al. 2025, arXiv 2502.01667): at a step, the better of two next states drawn from one state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.about import MethodAbout
from stages.finetune.families.settings import BranchSettings
from stages.finetune.family import branched_rollouts

if TYPE_CHECKING:
    from stages.finetune.families.step_preference import StepPairs
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("TailorPO", "Ren et al. 2025, arXiv 2502.01667", family="preference")


class Settings(BranchSettings):
    """TailorPO has the keys of its family."""


def loss(pairs: StepPairs, settings: Settings) -> Loss:
    """-log sigmoid(beta (log rho_w - log rho_l)), the ratios to the base clipped."""
    from stages.finetune.losses.step_preference import clipped_preference

    return clipped_preference(pairs, settings.beta, settings.clip)


METHOD = branched_rollouts(Settings, loss)
