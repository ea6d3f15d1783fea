"""How far judges rank the same images alike.

Rank correlations are those of Spearman: the correlation of ranks, ties having the mean of their ranks. They are taken
among the images of one way of sampling, so that they say how far two judges agree about images of that kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from stages.report import curves
from stages.report.claims import Draws
from stages.report.look import Look
from stages.report.measurements import Measurements, Point

PROMPTS, IMAGES = "rank_prompts", "rank_images"
"""Kinds of findings: the correlation of two judges over mean scores of prompts, and over single images."""
CHUNK = 64
"""Resamples whose ranks are in memory at a time."""


def compared(look: Look, evaluation: Measurements) -> list[Point]:
    """The points whose images the judges are compared on: the base, and every method tuned only."""
    tuned = (curves.tuned_point(look, evaluation, method) for method in look.order)
    return [evaluation.base, *(point for point in tuned if point is not None)]


def statistics(
    judges: Sequence[str], look: Look, evaluation: Measurements, draws: Draws
) -> Iterator[tuple[str, Point, tuple[str, str], np.ndarray]]:
    """(kind, point, pair of judges, correlation [1 + resamples]) for every pair that was measured at a point."""
    for point in compared(look, evaluation):
        known = [metric for metric in judges if (point, metric) in evaluation.images]
        if len(known) < 2:
            continue
        scores = np.stack([evaluation.images[point, metric] for metric in known], axis=1)  # seeds, judges, prompts, n
        means = np.stack([evaluation.arrays[point, metric] for metric in known], axis=1)[..., None]
        for kind, values in ((PROMPTS, means), (IMAGES, scores)):
            found = over_seeds(draws, values)
            for (i, one), (j, other) in combinations(enumerate(known), 2):
                yield kind, point, (one, other), found[:, i, j]


def over_seeds(draws: Draws, scores: np.ndarray) -> np.ndarray:
    """[1 + resamples, judges, judges]: mean correlation over the seeds of scores [seeds, judges, prompts, samples]."""
    each = np.stack([of_seed(draws.prompts, one) for one in scores])
    return np.einsum("rs,srjk->rjk", np.broadcast_to(draws.seeds(len(scores)), (each.shape[1], len(scores))), each)


def of_seed(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[resamples, judges, judges]: rank correlations of scores [judges, prompts, samples] under weights of prompts
    [resamples, prompts]. Samples that some judge did not score (NaN) are left out; NaN where a judge scores all alike.
    """
    samples = scores.shape[2]
    flat = scores.reshape(len(scores), -1)
    kept = np.isfinite(flat).all(axis=0)
    every = np.repeat(weights, samples, axis=1)[:, kept]
    parts = [correlations(flat[:, kept], every[at : at + CHUNK]) for at in range(0, len(every), CHUNK)]
    return np.concatenate(parts)


def correlations(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[resamples, judges, judges] of scores [judges, n] under weights [resamples, n]: those of a sample in which every
    item stands as often as its weight says.
    """
    ranks = np.stack([weighted_ranks(one, weights) for one in scores])
    total = np.maximum(weights.sum(axis=1), 1e-300)
    ranks -= ((ranks * weights).sum(axis=2) / total)[..., None]
    both = np.einsum("jrn,krn,rn->rjk", ranks, ranks, weights, optimize=True)
    spread = np.sqrt(np.einsum("rjj->rj", both))
    size = spread[:, :, None] * spread[:, None, :]
    defined = size > 1e-12 * (total**3)[:, None, None]
    return np.clip(np.where(defined, both / np.where(defined, size, 1), np.nan), -1, 1)


def weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[resamples, n]: the weight below each of values [n] and half that of its equals, under weights [resamples, n]."""
    unique, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(unique)))
    alike = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(alike, axis=1) - alike / 2)[:, place]
