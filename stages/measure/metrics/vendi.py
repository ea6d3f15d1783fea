"""Vendi score: how many different images the images of a prompt amount to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import EPSILON, at_bound, unit

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout("Vendi score", "Friedman and Dieng 2023", labels={"vendi": "Vendi score"}, rising="more diverse")

SCOPE = "prompt"
SPACE = "first"


def metric(images: ScoredImages) -> Mapping[str, float]:
    """Score in the first embedding of the study, between 1 and the number of images."""
    first = next(iter(images.embeddings.values()), None)
    return {} if first is None else {"vendi": vendi_score(first)}


def vendi_score(features: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosines of features [n, D] (Friedman and Dieng 2023).

    1 for n equal images and n for n orthogonal ones, exactly: what rounding takes beyond these ends is set back.
    """
    units = unit(features)
    shares = np.clip(np.linalg.eigvalsh(units @ units.T / len(units)), 1e-300, None)
    value, count = float(np.exp(-(shares * np.log(shares)).sum())), len(units)
    return at_bound(value, 1.0, count, 64 * count**3 * EPSILON)  # n shares, off by n roundings each, times a score of n
