"""Self-NPO (2025): a negative network without preferences, which learns to predict what the base predicts without a
prompt. It takes the place of the unconditional prediction in guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import TruncatedSettings
from stages.finetune.family_pairs import truncated

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.objective import Loss

ABOUT = MethodAbout("Self-NPO", "truncated diffusion fine-tuning, 2025", family="preference")


class Settings(TruncatedSettings):
    """Self-NPO's own keys."""

    loss: Literal["huber", "l2"] = Field(
        default="huber", description="of a difference d of clean latents: sqrt(d^2 + c^2) - c, or d^2"
    )
    huber: float = Field(default=1e-3, gt=0, description="c, in units of latents, as released")


def loss(difference: Tensor, settings: Settings) -> Loss:
    """The mean over all numbers of the differences [B, C, h, w]."""
    from stages.finetune.objective import Loss

    squares = difference.square()
    if settings.loss == "huber":
        return Loss.of(((squares + settings.huber**2).sqrt() - settings.huber).mean(), mse=squares.mean())
    return Loss.of(squares.mean())


METHOD = truncated(Settings, loss)
