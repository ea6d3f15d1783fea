"""How far two judges rank the same images alike: Spearman's correlation, by ranking every resample anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from stages.audit.statistics import Finding, Frame, Study

OVER = {"prompts": "rank_prompts", "images": "rank_images"}
CHUNK = 100


def judges(raw: Mapping[str, Any]) -> list[str]:
    """The metrics that a model gives single images."""
    measured = raw["measure"]
    named = [*raw["report"]["rewards"], *measured.get("rewards", ())]
    return list(dict.fromkeys(named + (["clipscore"] if measured.get("text_image") else [])))


def agreement(own: Study, raw: Mapping[str, Any], rows: Frame, over: str) -> Iterator[tuple[tuple[str, ...], Finding]]:
    """Every correlation by (kind, method, strategy, setting, judge, other), over prompts, or over images where `rows`
    has those of single images.
    """
    first = [raw["study"]["reference"], raw["report"].get("candidate", "imagerefl")]  # as everywhere in a report
    every = [run["method"] for run in raw["runs"].values()]
    methods = dict.fromkeys([*(name for name in first if name in every), *every])
    for point in filter(None, [own.limit, *map(own.tuned, methods)]):
        known = [name for name in judges(raw) if (*point, name) in own.scores]
        if len(known) < 2:
            continue
        if over == "prompts":
            scores = np.stack([own.scores[*point, name] for name in known], axis=-1)[:, :, None]
        else:
            scores = _images(own, rows, point, known)
        drawn = _over_seeds(own, scores)
        for (i, one), (j, other) in combinations(enumerate(known), 2):
            yield (OVER[over], *point, one, other), own.interval(drawn[:, i, j])


def _images(own: Study, rows: Frame, point: tuple[str, ...], known: Sequence[str]) -> np.ndarray:
    """[seeds, prompts, samples, judges]."""
    here = (rows[["method", "strategy", "setting"]] == list(point)).all(axis=1) & rows["metric"].isin(known)
    table = rows[here].pivot(index=["train_seed", "prompt_id", "sample"], columns="metric", values="score")[list(known)]
    levels = [sorted(rows[here][name].unique()) for name in ("train_seed", "sample")]
    every = pd.MultiIndex.from_product([levels[0], sorted(rows["prompt_id"].dropna().unique()), levels[1]])
    return table.reindex(every).to_numpy().reshape(len(levels[0]), -1, len(levels[1]), len(known))


def _over_seeds(own: Study, scores: np.ndarray) -> np.ndarray:
    """[1 + resamples, judges, judges]: means over seeds, which are drawn too where the study asks for it."""
    seeds, prompts = scores.shape[:2]
    anew = own.report.get("resample") == "prompts_and_seeds" and seeds > 1
    times = np.vstack([np.ones(seeds), own.draws("training seeds", seeds) if anew else np.ones((own.size, seeds))])
    counts = np.vstack([np.ones(prompts, int), own.draws("bootstrap", prompts)])
    picks = np.stack([np.repeat(np.arange(prompts), count) for count in counts])
    every = np.stack([_ranked(one, picks) for one in scores], axis=1)
    return (every * times[:, :, None, None]).sum(1) / times.sum(1)[:, None, None]


def _ranked(scores: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """[resamples, judges, judges]: correlations of ranks of scores [prompts, samples, judges] at the picked prompts."""
    scores = np.where(np.isfinite(scores).all(-1, keepdims=True), scores, np.nan)
    found = []
    for start in range(0, len(picks), CHUNK):
        drawn = scores[picks[start : start + CHUNK]]  # [resamples, prompts, samples, judges]
        count, judged = len(drawn), drawn.shape[-1]
        flat = drawn.reshape(count, -1, judged).transpose(1, 0, 2).reshape(-1, count * judged)
        ranks = pd.DataFrame(flat).rank().to_numpy().reshape(-1, count, judged)
        ranks = np.nan_to_num(ranks - np.nanmean(ranks, axis=0))
        both = np.einsum("nrj,nrk->rjk", ranks, ranks)
        spread = np.sqrt(np.einsum("rjj->rj", both))
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(both / (spread[:, :, None] * spread[:, None, :]))
    return np.concatenate(found)
