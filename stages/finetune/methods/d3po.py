"""D3PO (Yang et al. 2024, arXiv 2311.13231): the better of two rollouts from one starting noise, at every step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stages.about import MethodAbout
from stages.finetune.families.settings import PreferenceSettings
from stages.finetune.family import paired_rollouts
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from stages.finetune.families.step_preference import StepPairs
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("D3PO", "Yang et al. 2024, arXiv 2311.13231", family="preference")


class Settings(PreferenceSettings):
    """D3PO has the keys of its family."""

    @property
    def needs(self) -> Needs:
        """Pairs of images of a prompt."""
        return replace(super().needs, group=2)

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """Pairs stay together, in the rollouts and in the loss."""
        own = super().shares(train)
        return {"pairs of images": own["images"] // 2, "pairs of states of an update": own["states of an update"] // 2}

    def check(self, train: FinetuneSettings) -> None:
        """Pairs are not torn apart."""
        super().check(train)
        if self.state_batch % 2:
            raise ValueError(f"state_batch {self.state_batch} is odd, expected whole pairs")


def loss(pairs: StepPairs, settings: Settings) -> Loss:
    """-log sigmoid(beta (log rho_w - log rho_l)), the ratios to the base clipped."""
    from stages.finetune.losses.step_preference import clipped_preference

    return clipped_preference(pairs, settings.beta, settings.clip)


METHOD = paired_rollouts(Settings, loss)
