"""The dense reward view (Yang et al. 2024, arXiv 2402.08265): trajectories ranked by the reward, early steps first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.about import MethodAbout
from stages.finetune.families.settings import RankedSettings
from stages.finetune.family import ranked_rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.ranked_rollouts import RankedLists
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("Dense reward", "Yang et al. 2024, arXiv 2402.08265", family="preference")

INSIDE = 1e-10
"""What the released ListMLE adds inside the logarithm."""


class Settings(RankedSettings):
    """The keys of its family."""


def logits(lists: RankedLists, settings: Settings) -> tuple[Tensor, Tensor]:
    """Logits [N, L] of the trajectories: C times the mean over steps of the log ratios, clipped each; and the share of
    the ratios that are clipped. Without a reference they are C times the mean log density.
    """
    import torch

    compared = {"base": [lists.base], "old": [lists.old], "both": [lists.base, lists.old], "none": []}
    ratios = [lists.log_prob - other for other in compared[settings.against] if other is not None]
    if not ratios:
        return settings.strength * lists.log_prob.mean(-1), lists.log_prob.new_zeros(())
    every = torch.stack(ratios)
    kept = every.clamp(-settings.clip, settings.clip)
    return settings.strength * kept.sum(0).mean(-1), (every.abs() > settings.clip).float().mean()


def list_mle(found: Tensor, rewards: Tensor) -> Tensor:
    """-log of the Plackett-Luce probability [N] of the order that rewards [N, L] give, of logits [N, L]; equal rewards
    are in the order of the list. ListMLE as in the released code (after allRank).
    """
    import torch

    order = rewards.argsort(dim=1, descending=True, stable=True)
    ranked = found.gather(1, order)
    ranked = ranked - ranked.amax(1, keepdim=True)
    rest = ranked.exp().flip(1).cumsum(1).flip(1)
    return (torch.log(rest + INSIDE) - ranked).sum(1)


def loss(lists: RankedLists, settings: Settings) -> Loss:
    """Mean ListMLE of the lists; `accuracy` is the share of lists whose best image has the highest logit."""
    from stages.finetune.objective import Loss

    found, clipped = logits(lists, settings)
    best = lists.rewards.argmax(1) == found.argmax(1)
    return Loss.of(list_mle(found, lists.rewards).mean(), accuracy=best.float().mean(), clipped=clipped)


METHOD = ranked_rollouts(Settings, loss)
