"""Vendi score: how many different images the images of a prompt amount to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.about import MetricAbout
from stages.measure.statistics import unit

if TYPE_CHECKING:
    from stages.measure.judged import Judged

ABOUT = MetricAbout("Vendi score", "Friedman and Dieng 2023", labels={"vendi": "Vendi score"}, rising="more diverse")

SCOPE = "prompt"


def metric(images: Judged) -> Mapping[str, float]:
    """Score in the first embedding of the study, between 1 and the number of images."""
    first = next(iter(images.embeddings.values()), None)
    return {} if first is None else {"vendi": vendi_score(first)}


def vendi_score(features: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosines of features [n, D] (Friedman and Dieng 2023)."""
    units = unit(features)
    shares = np.clip(np.linalg.eigvalsh(units @ units.T / len(units)), 1e-300, None)
    return float(np.exp(-(shares * np.log(shares)).sum()))
