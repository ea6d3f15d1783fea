"""A fine-tuned network as plain weights: LoRA added to what it updates, everything else as it is."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from stages.models import annotators
from stages.models.policy import Policy


@torch.no_grad()
def merged(base: nn.Module, policy: Policy) -> nn.Module:
    """A copy of `base` whose weights are the policy's; neither `base` nor the policy changes.

    The embeddings of annotators are left out, since networks of other programs have no such input.
    """
    weights = {
        f"{name}.weight": module.weight.detach().clone()  # type: ignore[union-attr]
        for name, module in policy.network.named_modules()
        if parametrize.is_parametrized(module)
    }
    for name, value in policy.network.state_dict().items():
        if ".parametrizations." not in name and name != annotators.WEIGHT:
            weights.setdefault(name, value)
    network = copy.deepcopy(base)
    network.load_state_dict(weights)
    return network
