"""Predicted clean latents after a few deterministic steps: a better judge of a candidate than one prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.search import Search
    from stages.sample.stepping import Predicted


def lookahead(ctx: Context, search: Search, predicted: Predicted, steps: int) -> Tensor:
    """Clean latents [B, C, h, w] that the last of `steps` predictions implies.

    The first one is `predicted`, at the timestep t of its index; deterministic steps lead to the timesteps
    floor(t s / steps) for s = steps - 1, ..., 1 (not rounded down for flow matching). One step is the predicted clean
    latents themselves.
    Source: T2V-Diffusion-Search, the pipeline's call; the step that ends at timestep 0 is not judged there either.
    """
    process, start = ctx.grid.process, ctx.grid.timesteps[predicted.i]
    x, prediction, t = predicted.x, predicted.prediction, start
    for part in range(steps - 1, 0, -1):
        to = process.share(start, part, steps)
        x, t = process.ode(x, prediction, t, to), to
        prediction = search.at_time(ctx, t, _index(ctx, t))(x)
    return process.x0(x, prediction, t)


def _index(ctx: Context, t: Tensor) -> int:
    """The last index whose timestep is not below t."""
    return int((ctx.grid.timesteps >= t).sum()) - 1
