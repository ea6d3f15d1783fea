"""A network that costs nothing, for counting the evaluations of code that takes any network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StandIn(nn.Module):
    """Predicts its input times a weight of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        """x [B, ...] itself, with a graph to the weight."""
        return (x * self.weight.to(x.device),)

    def features(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Its prediction as the only feature, on the way down and in the middle."""
        made = x * self.weight.to(x.device)
        return made, made
