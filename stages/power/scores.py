"""Scores of one method of a finished study: reward at equal diversity, by training seed, prompt and image.

At equal diversity, to first order, a reward r of an image whose prompt has the diversity d counts as r - slope d, with
the slope of the line from the base to the tuned network alone: what reward the method pays for diversity. Scores are
means over the measured settings of the leading strategy. Variation of diversity that comes from single images is
attributed to the prompt, since diversity is known per prompt only; more images would lower it too, so the number of
prompts errs on the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from stages import tables
from stages.errors import InputError
from stages.params import nearest
from stages.power.components import Cost
from stages.report.look import BASE, GUIDANCE, Look
from stages.report.settings import ReportStudy

Frame: TypeAlias = Any
"""Of pandas, whose stubs know less of it than it does."""


@dataclass(frozen=True)
class Pilot:
    """Scores [S, P, n] of a method, its training seeds and prompts, the span of the reward from the base to its tuned
    network, the slope, and the cost.
    """

    scores: np.ndarray
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    span: float
    slope: float
    cost: Cost


def read(study: ReportStudy, results: Path, method: str, reward: str, diversity: str) -> Pilot:
    """The scores of a method in the folder of a study's results.

    Raises InputError for a method with fewer than two runs, metrics that were not measured, or missing files.
    """
    look = Look.of(study)
    runs = {name: view.seed for name, view in study.runs.items() if view.method == method}
    if len(runs) < 2:
        names = {view.method for view in study.runs.values()}
        hint = nearest(method, names) if method not in names else ""
        raise InputError(f"--method {method}: found {len(runs)} runs, expected at least two training seeds{hint}")
    leading = look.leading.name if look.leading else ""
    tuned = next((name for name, one in look.strategies.items() if one.about.role == "tuned"), "")
    base = _rows(results / f"measures/{BASE}.parquet", reward, diversity)
    guidance = look.leading.base_guidance if look.leading else 1.0
    base = base[(base["strategy"] == GUIDANCE) & (base["value"] == guidance)]
    rows: Frame = pd.concat([_rows(results / f"measures/{name}.parquet", reward, diversity) for name in runs])
    alone, curve = rows[rows["strategy"] == tuned], rows[rows["strategy"] == (leading or tuned)]
    if alone.empty or base.empty or curve.empty:
        raise InputError(f"{results}: no images of {method!r} tuned alone, or of the base; expected a finished study")
    rise, fall = (_mean(alone, name) - _mean(base, name) for name in (reward, diversity))
    slope = rise / fall if abs(fall) > 1e-9 else 0.0
    scores, prompts = _scores(curve, reward, diversity, slope)
    return Pilot(
        scores, tuple(sorted(runs.values())), prompts, rise, slope, _cost(results, list(runs), leading or tuned)
    )


def _rows(path: Path, reward: str, diversity: str) -> Frame:
    """Scores of the two metrics; raises InputError where one was not measured."""
    columns = ["train_seed", "strategy", "value", "prompt_id", "sample", "metric", "score"]
    rows: Frame = tables.read(path, tables.MEASURES, columns).to_pandas()
    for name in (reward, diversity):
        if name not in set(rows["metric"]):
            raise InputError(f"{path}: holds no {name!r}{nearest(name, set(rows['metric']))}")
    return rows[rows["metric"].isin([reward, diversity])]


def _mean(rows: Frame, metric: str) -> float:
    """Mean over images, then prompts, then seeds."""
    mine = rows[rows["metric"] == metric]
    return float(mine.groupby(["train_seed", "prompt_id"])["score"].mean().groupby("train_seed").mean().mean())


def _scores(curve: Frame, reward: str, diversity: str, slope: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """Scores [S, P, n] and the prompts, in order; prompts without a diversity at every point are left out."""
    image = curve[curve["metric"] == reward].groupby(["train_seed", "prompt_id", "sample"])["score"].mean()
    spread = curve[curve["metric"] == diversity].groupby(["train_seed", "prompt_id"])["score"].agg(["mean", "size"])
    whole = spread[spread["size"] == spread["size"].max()]["mean"].unstack("train_seed").dropna()
    cube = image.unstack("sample")
    if cube.isna().to_numpy().any():
        raise InputError("power: prompts have different numbers of images, expected as many of each")
    made = [
        cube.xs(seed, level="train_seed").loc[whole.index].to_numpy() - slope * whole[[seed]].to_numpy()
        for seed in sorted(whole.columns)
    ]
    return np.stack(made), tuple(map(str, whole.index))


def _cost(results: Path, runs: Sequence[str], strategy: str) -> Cost:
    """Means over the runs; an evaluation with gradient counts as three."""
    trained, image = [], []
    for run in runs:
        log: Frame = tables.read(results / f"runs/{run}/train_log.parquet", tables.TRAIN_LOG).to_pandas()
        last = log[log["term"].isin(["forward", "backward"])].groupby("term")["value"].max()
        trained.append(float(last.get("forward", 0.0)) + 2 * float(last.get("backward", 0.0)))
        samples = tables.read(results / f"samples/{run}.parquet", tables.SAMPLES, ["strategy", "value", "nfe"])
        frame: Frame = samples.to_pandas()
        mine = frame[frame["strategy"] == strategy]
        image.append(float(mine.groupby("value")["nfe"].mean().sum()))
    return Cost(float(np.mean(trained)), float(np.mean(image)))
