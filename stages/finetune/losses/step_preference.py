"""The preference loss of D3PO (Yang et al. 2024), TailorPO (Ren et al. 2025) and SPO (Liang et al. 2024) on pairs of
sampling steps.
"""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from stages.finetune.families.step_preference import StepPairs
from stages.finetune.objective import Loss


def clipped_preference(pairs: StepPairs, beta: float, clip: float) -> Loss:
    """L = -log sigmoid(beta (log rho_w - log rho_l)) with every ratio rho clipped to [1 - clip, 1 + clip].

    With log densities that are sums over C, h, w everything would be clipped. Ties contribute zero loss. `accuracy` is
    the share of pairs in which the policy prefers the better one, with the weights of the loss; `pairs` the share of
    pairs that are no ties.
    """
    first, second = (ratio.exp().clamp(1 - clip, 1 + clip).log() for ratio in (pairs.first, pairs.second))
    weight = pairs.sign.abs()
    inside = beta * pairs.sign.sign() * (first - second)
    loss = -(weight * logsigmoid(inside)).mean()
    return Loss.of(loss, accuracy=(weight * (inside > 0)).mean(), pairs=(weight > 0).float().mean())
