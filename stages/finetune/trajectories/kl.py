"""KL divergence of the policy's sampling steps from those of the base, in nats per number of the latents.

All methods here share this normalisation. Of a whole image it is C h w times as much, which the log has too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.networks import Networks
from stages.finetune.trajectories.chain import Chain
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian


def kl_to_base(chain: Chain, found: Gaussian, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
    """KL divergence [N] of the policy's steps `found` at states x [N, C, h, w] entering i [N] from the base's."""
    with torch.no_grad():
        base = chain.transition(chain.networks.base, x, i, text)
    return found.kl(base)


def mse_to_base(chain: Chain, prediction: Tensor, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
    """Squared differences [N], means over C, h, w, of the policy's predictions at states x [N, C, h, w] entering i [N]
    from the base's, both guided as the study says.
    """
    with torch.no_grad():
        base = chain.prediction(chain.networks.base, x, i, text)
    return (prediction - base).square().mean((1, 2, 3))


def kl_terms(kl: Tensor, x: Tensor) -> dict[str, Tensor]:
    """The mean divergence for the log: per number (`kl_per_dim`) and of the whole image (`kl`, nats)."""
    return {"kl_per_dim": kl, "kl": kl * x[0].numel()}


def kl_penalty(networks: Networks, batch: Batch, x: Tensor, index: int) -> Tensor:
    """The mean divergence [] of the ancestral step from states x [B, C, h, w] that enter `index`, a penalty of
    reward-gradient methods.

    With an index drawn evenly from those that a rollout visits it is an estimate of the mean over the steps. The
    gradient reaches the policy through this step alone: the state is detached. SQDF's paper compares with DRaFT and
    this penalty.
    """
    chain, x = Chain.of(networks), x.detach()
    i = chain.index(index, len(x))
    found = chain.transition(networks.policy, x, i, batch.text)
    return kl_to_base(chain, found, x, i, batch.text).mean()
