"""Searches in a part of the steps: those that the base makes, or those of the tuned network after it.

Torch-free until a search is made. A search in a part is the search of a shorter sampling: of the base's k steps, whose
last prediction's clean latents are judged as images are, or of the T - k steps after them, which begin at the base's
latents. Every other step is plain sampling, by the draws of candidate 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.sample.settings import Prefix, SampleSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context
    from stages.sample.search import Found, Search


def require_part(search: Search, prefix: Prefix | None, sample: SampleSettings) -> None:
    """Raise ValueError where the steps of `prediction` have no such part, or candidates would not differ in it."""
    from stages.sample.stepping import require_random

    if search.part == "all":
        return
    if prefix is None:
        raise ValueError(
            f"part {search.part}: expected a prediction in which the base makes the first steps, such as combined"
        )
    if search.part == "tuned":
        require_random(sample, "candidates that go on from the base's steps")
        if prefix.steps > sample.steps - 2:
            raise ValueError(f"part tuned: one step is left after k {prefix.steps}, and the last step has no noise")


def found_in(ctx: Context, search: Search, value: float, steps: int) -> Tensor:
    """Images [B, 3, H, W] of a search in a part, where the base makes the first `steps` steps."""
    plain = search.steps(ctx)
    if search.part == "base":
        found = search.find(ctx.within(range(steps)), value)
        return ctx.decode(plain.finish_from(steps, found.x))
    last, x = len(ctx.grid), ctx.start[1] if ctx.start else plain.begin(steps)
    kept = plain.enter is None and not search.needs_gradient()  # candidates enter with one prediction
    prediction = plain.predict(x, steps) if kept else None
    return shown(ctx, search.find(ctx.within(range(steps, last), x, prediction), value))


def shown(ctx: Context, found: Found) -> Tensor:
    """The images of what was found, decoded where they have not been."""
    return ctx.decode(found.x) if found.images is None else found.images
