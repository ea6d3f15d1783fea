"""D3PO (Yang et al. 2024, arXiv 2311.13231): the better of two rollouts from one starting noise, at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectory.settings import CollectionSettings

if TYPE_CHECKING:
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("D3PO", "Yang et al. 2024, arXiv 2311.13231", family="preference")


class Settings(CollectionSettings):
    """D3PO's own keys."""

    beta: float = Field(
        default=1.0, gt=0, description="how strongly a preferred step must be more likely than the other"
    )
    clip: float = Field(default=0.1, gt=0, lt=1, description="ratios to the base are clipped to 1 plus and minus this")

    @property
    def group(self) -> int:
        """Pairs."""
        return 2

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """Pairs stay together, in the rollouts and in the loss."""
        own = super().shares(train)
        return {"pairs of images": own["images"] // 2, "pairs of states of an update": own["states of an update"] // 2}

    def check(self, train: FinetuneSettings) -> None:
        """Pairs are not torn apart."""
        super().check(train)
        if self.state_batch % 2:
            raise ValueError(f"state_batch {self.state_batch} is odd, expected whole pairs")


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    from stages.finetune.trajectory.pairs import D3po

    return D3po(settings, train.accumulate)
