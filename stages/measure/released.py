"""Means as the released ImageReFL code takes them: half-precision scores, means of batches, and their plain mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Values rounded to the nearest bfloat16, ties to even, as float32."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def mean_of_batches(scores: Sequence[float], batch: int) -> float:
    """The unweighted mean of the means of batches of `batch` scores in order; scores and batch means in bfloat16.

    ImageReFL's code: rewards under autocast (base_trainer.py), then tracker.py. A last, smaller batch counts as much
    as the others. Sums are taken in float32, as torch does.
    """
    values = bfloat16(np.asarray(scores))
    means = [bfloat16(values[i : i + batch].mean(dtype=np.float32)) for i in range(0, len(values), batch)]
    return float(np.mean(np.asarray(means, np.float64)))
