"""Sampling in a few steps, for distilled models: from a state x they predict clean latents y at once.

The next state is drawn around them,

    renoise     N(sqrt(a') y, 1 - a'), which forgets x: how consistency models are sampled in several steps
    ancestral   q(x' | x, y), the posterior of the noise schedule

with a' the cumulative product at the next timestep. The last step ends at y, without noise. Rules and grid are those of
the two released scripts of PSO (github.com/ZichenMiao/Pairwise_Sample_Optimization).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from stages.errors import InputError
from stages.models.process import DiffusionProcess, Gaussian, at
from stages.models.process_noise import NoiseGrid, NoiseSchedule

Rule = Literal["renoise", "ancestral"]


def grid(process: DiffusionProcess, steps: int) -> NoiseGrid:
    """`steps` timesteps, of which the first is the last one of the schedule. Raises InputError for flow matching."""
    if not isinstance(process, NoiseSchedule):
        raise InputError("few-step sampling is that of a noise schedule, but the base is a flow-matching model")
    return replace(process, spacing="trailing").grid(steps)


def transition(grid: NoiseGrid, rule: Rule, x: Tensor, clean: Tensor, i: Tensor) -> Gaussian:
    """The Gaussian over states i + 1 from states x [B, C, h, w] at indices i [B] and clean latents predicted of them;
    of the last step its standard deviation is 0.
    """
    after = at(grid.alpha_prev, i, x)
    if rule == "renoise":
        return Gaussian(after.sqrt() * clean, (1 - after).sqrt())
    alpha = at(grid.alpha, i, x)
    beta = 1 - alpha / after
    mean = after.sqrt() * beta / (1 - alpha) * clean + (1 - beta).sqrt() * (1 - after) / (1 - alpha) * x
    return Gaussian(mean, ((1 - after) / (1 - alpha) * beta).sqrt())
