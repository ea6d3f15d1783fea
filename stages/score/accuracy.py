"""How often a reward prefers what people preferred."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stages.measure.bootstrap import ratio_interval

if TYPE_CHECKING:
    from stages.score.scoring import Pairs

RESAMPLES, LEVEL = 1000, 0.95


def agreement(scores: np.ndarray, preferences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per pair, agreement in {0, 1/2, 1} and weight in [0, 1], from scores [n, 2] and votes for side a [n].

    A pair agrees where the side with more votes has the higher score; equal scores count as half an agreement. Its
    weight is how one-sided the vote was, |2p - 1|: 1 for a plain preference, 0 for an even split, which has no right
    answer.
    """
    gap = scores[:, 0] - scores[:, 1]
    wanted = np.sign(2 * preferences - 1)
    return np.where(gap == 0, 0.5, (np.sign(gap) == wanted).astype(float)), np.abs(2 * preferences - 1)


def pair_accuracy(pairs: Pairs) -> dict[str, object]:
    """Weighted share of validation pairs that a reward agrees with, its interval, and the same share on training pairs.

    The interval is a bootstrap over prompts, since pairs of one prompt share images. Values are null where a split has
    no pair with a majority. Pairs of an image with itself, which is judged under two captions, are left out.
    """
    agrees, weights = agreement(pairs.scores, pairs.preferences)
    weights = weights * np.array([first != second for first, second in pairs.images])
    found: dict[str, object] = {"split": "val", "level": LEVEL}
    for split, prefix in (("val", ""), ("train", "train_")):
        rows = np.flatnonzero((np.array(pairs.splits, dtype=object) == split) & (weights > 0))
        found[f"{prefix}pairs"] = len(rows)
        if not len(rows):
            found |= {f"{prefix}{name}": None for name in ("accuracy", "low", "high")}
            continue
        prompts = [pairs.prompts[row] for row in rows]
        value = ratio_interval(agrees[rows] * weights[rows], weights[rows], prompts, RESAMPLES, LEVEL)
        found |= {f"{prefix}accuracy": value.mean, f"{prefix}low": value.low, f"{prefix}high": value.high}
    return found
