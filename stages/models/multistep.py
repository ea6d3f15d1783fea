"""DPM-Solver++ of second order (Lu et al. 2022, arXiv 2211.01095), multistep, for trajectories whose timesteps differ
from image to image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.models.process import at
from stages.models.process_noise import NoiseSchedule


@dataclass(frozen=True)
class States:
    """States [T, B, C, h, w] before each step and the predictions there, [T, B, C, h, w]."""

    states: Tensor
    predictions: Tensor


@torch.no_grad()
def trajectory(
    process: NoiseSchedule, predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor,
    levels: Tensor | None = None,
) -> States:  # fmt: skip
    """The states of a deterministic trajectory from noise x [B, C, h, w] on timesteps `times` [T, B], noisiest first.

    `predict(x, t)` is the noise at timesteps t [B]. The first step is of first order. `levels` [T, B] are the timesteps
    whose noise levels the solver takes, the very `times` if none are given. The step after the last state is not made.
    """
    levels = times if levels is None else levels
    states, predictions, before = [], [], None
    for i, (t, level) in enumerate(zip(times, levels, strict=True)):
        prediction = predict(x, t)
        clean = process.x0(x, prediction, level)
        states.append(x)
        predictions.append(prediction)
        if i + 1 < len(times):
            x = _step(process, x, clean, before, levels[max(i - 1, 0) : i + 2])
        before = clean
    return States(torch.stack(states), torch.stack(predictions))


def _step(process: NoiseSchedule, x: Tensor, clean: Tensor, before: Tensor | None, levels: Tensor) -> Tensor:
    """The next state, from those predicted clean latents and the ones before; `levels` [2 or 3, B] end at the next."""
    alphas = [at(process.alphas_cumprod, level, x) for level in levels]
    here, to = alphas[-2], alphas[-1]
    # half the log of the signal-to-noise ratio grows with every step
    half = [(alpha.log() - (1 - alpha).log()) / 2 for alpha in alphas]
    length = half[-1] - half[-2]
    toward = clean
    if before is not None:
        ratio = (half[-2] - half[-3]) / length
        toward = clean + (clean - before) / (2 * ratio)
    return ((1 - to) / (1 - here)).sqrt() * x - to.sqrt() * torch.expm1(-length) * toward
