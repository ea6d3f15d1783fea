"""CHATS (Fu et al. 2025): two networks trained together, one on the images that won and one on those that lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_variants import TwoNetworkSettings
from stages.finetune.family_pairs import two_networks

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("CHATS", "Fu et al. 2025, arXiv 2502.12579", family="preference")


class Settings(TwoNetworkSettings):
    """CHATS's own keys."""

    beta: float = Field(
        default=2000.0,
        gt=0,
        description="as Diffusion-DPO's, half of it enters the loss; the release has no half, so that its 1000 is 2000",
    )


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-log sigmoid(beta / 2 ((r(w) - e(w)) + (r'(l) - e'(l)))): each network is to fit its own side."""
    from stages.finetune.losses.pairs import logistic
    from stages.finetune.objective import Loss

    gain = pairs.winner.log_ratio + pairs.loser.log_ratio
    return Loss.of(pairs.mean(logistic(gain, settings.beta)))


METHOD = two_networks(Settings, loss)
