"""Frozen predictions of the clean latents from a state: what stands for the soft Q function in SQDF.

Never the policy itself, which would make it another method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.finetune.trajectories.chain import Chain
from stages.models.conditioning import Conditioning
from stages.models.consistency import Student

Predictor = Callable[[Chain, Tensor, Tensor, Conditioning], Tensor]
"""(chain, x [N, C, h, w], i [N], conditions) to clean latents [N, C, h, w], with gradient to x. The states x enter the
steps i, 1 to T; a state with i = T is the end of the chain, and is its own prediction.
"""


@dataclass(frozen=True)
class Steps:
    """The frozen base with the guidance of the rollouts: `count` deterministic steps that divide what is left evenly.

    One step is Tweedie's formula, the mean of the clean latents; two are SQDF's `ddim-2`.
    """

    count: int

    def __call__(self, chain: Chain, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
        """Clean latents."""
        grid, last, now, clean = chain.networks.grid, len(chain), x, x
        for n in range(self.count):
            here, there = (
                (i + torch.div((last - i) * k, self.count, rounding_mode="floor")).clamp(max=last - 1)
                for k in (n, n + 1)
            )
            prediction = chain.prediction(chain.networks.base, now, here, text)
            clean, now = grid.x0(now, prediction, here), grid.ode(now, prediction, here, to=there)
        return _unless_ended(clean, x, i, last)


@dataclass(frozen=True)
class Distilled:
    """The consistency model distilled from the base: one evaluation, its guidance baked in."""

    def __call__(self, chain: Chain, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
        """Clean latents."""
        times = chain.networks.grid.timesteps[i.clamp(max=len(chain) - 1)]
        return _unless_ended(Student(chain.networks.distilled)(x, times, text), x, i, len(chain))


def _unless_ended(clean: Tensor, x: Tensor, i: Tensor, last: int) -> Tensor:
    return torch.where((i == last).reshape(-1, 1, 1, 1), x, clean)
