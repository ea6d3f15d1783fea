"""The one sampling loop: denoise from index to index of a grid with any prediction. Re-entrant, so prefixes can be
shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from stages.models.diffusion import Predict
from stages.models.noise import Noise
from stages.models.process import Grid

Sampler = Literal["ddpm", "ddim"]
OnStep = Callable[[int, Tensor], None]
"""Called with an index and the latents that enter it."""
Enter = Callable[[Tensor, int], Tensor]
"""Gives, for the latents that enter an index, those from which the step is made."""


def step(grid: Grid, x: Tensor, prediction: Tensor, i: int, noise: Noise, sampler: Sampler) -> Tensor:
    """One step of `sampler` from index i to i + 1; x and prediction [B, C, h, w]."""
    if sampler == "ddpm":
        return grid.ancestral(x, prediction, i).sample(noise.step(i))
    return grid.ode(x, prediction, i)


def denoise(
    grid: Grid,
    predict: Predict,
    x: Tensor,
    start: int,
    stop: int,
    noise: Noise,
    sampler: Sampler = "ddpm",
    on_step: OnStep | None = None,
    extra_step: bool = False,
    enter: Enter | None = None,
) -> Tensor:
    """Latents entering index `stop`, from latents `x` entering index `start`; no step at all when they are equal.

    `on_step(i, x)` is called with the latents entering each index, `stop` not included; `enter` then changes them. With
    `extra_step` equal ends make one step at the index before them (the last one before 0), as ImageReFL's code does
    (do_k_diffusion_steps).
    """
    indices = [(start - 1) % len(grid)] if extra_step and start == stop else range(start, stop)
    for i in indices:
        if on_step is not None:
            on_step(i, x)
        x = x if enter is None else enter(x, i)
        x = step(grid, x, predict(x, i), i, noise, sampler)
    return x


def finish(
    grid: Grid,
    predict: Predict,
    x: Tensor,
    start: int,
    noise: Noise,
    sampler: Sampler = "ddpm",
    on_step: OnStep | None = None,
    enter: Enter | None = None,
) -> Tensor:
    """Clean latents from latents `x` entering index `start`: all steps but the last, then the x0 of the last
    prediction. From len(grid) on there is no step left, and x0 is predicted as at the last index. `enter` changes the
    latents of every step, the last one too.
    """
    last = len(grid) - 1
    x = denoise(grid, predict, x, start, last, noise, sampler, on_step, enter=enter)
    if on_step is not None:
        on_step(last, x)
    x = x if enter is None else enter(x, last)
    return grid.x0(x, predict(x, last), last)
