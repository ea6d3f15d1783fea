"""TKTO (2025): the utility of an image with its own caption, liked, and with another one, disliked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import TextPairSettings
from stages.finetune.family_pairs import text_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("TKTO", "free lunch alignment by text preference optimization, 2025", family="preference")


class Settings(TextPairSettings):
    """TKTO's own keys."""

    beta: float = Field(default=1000.0, gt=0, description="all of it enters the loss, as with Diffusion-KTO; ours")


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """Half of (1 - sigmoid(beta (g - z0))) + (1 - sigmoid(-beta (g' - z0))) of the gains g and g' with the own and with
    the other caption; z0 = max(0, the mean of both over the micro-batch), without gradient.
    """
    import torch

    from stages.finetune.objective import Loss

    own, other = pairs.winner.log_ratio, pairs.loser.log_ratio
    point = ((pairs.of_all(own).mean() + pairs.of_all(other).mean()) / 2).clamp(min=0)
    liked, disliked = (1 - torch.sigmoid(s * settings.beta * (g - point)) for s, g in ((1, own), (-1, other)))
    return Loss.of(pairs.mean((liked + disliked) / 2), point=point)


METHOD = text_preference(Settings, loss)
