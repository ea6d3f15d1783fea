"""MaPO (Hong et al. 2024): margin-aware preference without a reference, beside the denoising error of the winner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import PairSettings, ReferenceSettings
from stages.finetune.family import paired_preference

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("MaPO", "Hong et al. 2024, arXiv 2406.06424", family="preference")


class Settings(PairSettings):
    """MaPO's own keys."""

    reference: ReferenceSettings = Field(
        default_factory=lambda: ReferenceSettings(kind="none"),
        description="MaPO has none; with another one it is evaluated for the log only",
    )
    beta: float = Field(default=0.1, gt=0, description="weight of the margin loss, as in the released script")
    snr: float = Field(default=0.5, gt=0, description="s in the score s e / (exp(s e) - 1) of an error e")
    factor: float = Field(default=1000.0, gt=0, description="of the difference of scores: the number of timesteps")


def score(errors: Tensor, snr: float) -> Tensor:
    """s e / (exp(s e) - 1) of errors e, 1 for e = 0 and falling. `expm1` keeps the digits that the released code loses
    in single precision.
    """
    import torch

    scaled = snr * errors
    return scaled / torch.expm1(scaled)


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """e(w) - beta log sigmoid(factor (score(w) - score(l))), errors of the policy alone."""
    from torch.nn.functional import logsigmoid

    from stages.finetune.objective import Loss

    winner, loser = pairs.winner.policy, pairs.loser.policy
    difference = score(winner, settings.snr) - score(loser, settings.snr)
    ratio = pairs.mean(logsigmoid(settings.factor * difference))
    error = pairs.mean(winner)
    return Loss.of(error - settings.beta * ratio, loss_diffusion=error, loss_margin=-settings.beta * ratio)


METHOD = paired_preference(Settings, loss)
