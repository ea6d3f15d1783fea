"""Predictions with gradient that micro-batches of an optimizer step make together.

Micro-batches bound the memory of gradients. Where memory allows it (`finetune.gradient_batch`), several of them
make one call of each network, with the same numbers but for rounding; then they share a graph, whose gradient is taken
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from stages.finetune.objective import Loss


def groups(count: int, images: int, size: int) -> list[range]:
    """`count` micro-batches of so many `images` each, in order, in groups of about `size` images: whole micro-batches,
    one at least.
    """
    each = max(size // images, 1)
    return [range(first, min(first + each, count)) for first in range(0, count, each)]


def joined(losses: Sequence[Loss | None]) -> Iterator[Loss]:
    """Parts that may share a graph, whose gradient is taken once: all of it with the last part."""
    parts = [loss for loss in losses if loss is not None]
    for part in parts[:-1]:
        yield replace(part, later=True)
    if parts:
        yield replace(parts[-1], root=sum((part.root for part in parts[:-1]), parts[-1].root))
