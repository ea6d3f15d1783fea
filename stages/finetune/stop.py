"""Values that a loss takes as constants, though they depend on the policy."""

from __future__ import annotations

from torch import Tensor


def gradient(values: Tensor) -> Tensor:
    """`values` without gradient. Losses call it as `stop.gradient(...)`, so that a check of their gradient by finite
    differences can keep these values as they were.
    """
    return values.detach()
