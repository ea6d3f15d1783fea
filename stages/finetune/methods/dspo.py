"""DSPO (Zhu et al. 2025): the winner's prediction is moved beyond the target, away from the reference's, by as much as
the preference is not learnt yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import PairSettings
from stages.finetune.family import paired_preference
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("DSPO", "Zhu et al. 2025, ICLR 2025, direct score preference optimization", family="preference")
LARGE = 0.1
"""Mean squared difference from the reference above which the release for SDXL takes the differences into its loss."""


class Settings(PairSettings):
    """DSPO's own keys."""

    beta: float = Field(
        default=0.001,
        gt=0,
        description="strength of the preference, the released value of Stable Diffusion 1.5: half of it enters the "
        "probability, and all of it multiplies the difference from the reference",
    )
    sdxl_as_released: bool = Field(
        default=False, description="the other loss that the release has for SDXL, which fits no target (beta 5000)"
    )

    def check(self, train: FinetuneSettings) -> None:
        """There is a reference to move away from."""
        super().check(train)
        if self.reference.kind == "none":
            raise ValueError("reference.kind none: DSPO compares predictions, expected frozen, ema or hard")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """mean ((p(w) - target) - beta (1 - P) (p(w) - b(w)))^2 with P = sigmoid(beta / 2 margin), through which gradient
    flows; p and b are the predictions of policy and reference for the winner.
    """
    import torch

    from stages.finetune.objective import Loss

    outputs = pairs.winner.made_of()
    assert outputs.reference is not None
    missing = 1 - torch.sigmoid(settings.beta / 2 * pairs.margin)
    difference = outputs.prediction - outputs.reference
    if settings.sdxl_as_released:
        return Loss.of(pairs.mean(_released_for_sdxl(pairs, difference, missing)))
    moved = outputs.prediction - outputs.target - settings.beta * missing[:, None, None, None] * difference
    return Loss.of(pairs.mean(moved.square().mean((1, 2, 3))))


def _released_for_sdxl(pairs: PairErrors, difference: Tensor, missing: Tensor) -> Tensor:
    """(1 - P)^2, times the mean squared difference from the reference where that is large over the micro-batch."""
    squares = difference.square().mean((1, 2, 3))
    large = bool(pairs.of_all(squares).mean() >= LARGE)
    return missing.square() * squares if large else missing.square()


METHOD = paired_preference(Settings, loss)
