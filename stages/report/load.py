"""Reads what the other stages wrote into measurements; refuses tables of another run, evaluation or version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages import tables
from stages.errors import InputError
from stages.measure.evaluation import evaluation_of, ids_of, specification_of
from stages.measure.expected import refuse_twice
from stages.params import nearest
from stages.report.claims import Interval
from stages.report.look import BASE, GUIDANCE, Look
from stages.report.measurements import Cost, Log, Measurements, Point, Series
from stages.report.settings import ReportStudy

KEYS = ["method", "train_seed", "strategy", "setting", "value"]


def evaluation(study: ReportStudy, look: Look, measures: Path, samples: Path) -> Measurements:
    """Read the measures, summaries and costs of the base and of every run of the study.

    Raises InputError for a missing or foreign file, where a metric that the report needs was not measured, and where
    files come from different evaluations.
    """
    runs = {BASE: (BASE, 0)} | {name: (run.method, run.seed) for name, run in study.runs.items()}
    identity = _identity([measures / f"{run}{kind}.parquet" for run in runs for kind in ("", ".summary")])
    tabled = {run: _scores(measures / f"{run}.parquet", run, *whose) for run, whose in runs.items()}
    scored = {run: _by_prompt(table) for run, table in tabled.items()}
    single = [row for table in tabled.values() for row in _of_images(table, look, study.judges)]
    summed = {run: _summary(measures / f"{run}.summary.parquet", run, *whose) for run, whose in runs.items()}
    costs = {run: _costs(samples / f"{run}.parquet", run, *whose) for run, whose in runs.items()}
    _refuse_other_prompts(scored, measures)
    rows = [row for part in scored.values() for row in part]
    _need(study, {row["metric"] for row in rows}, measures)
    prompts = tuple(sorted({row["prompt_id"] for row in rows}))
    seeds = {method: tuple(sorted(s for m, s in runs.values() if m == method)) for method, _ in runs.values()}
    summaries = [row for part in summed.values() for row in part]
    labels = {_point(row): str(row["setting"]) for row in summaries}
    return Measurements(
        prompts=prompts,
        seeds=seeds,
        arrays=_arrays(rows, seeds, prompts),
        images=_image_arrays(single, seeds, prompts),
        summaries=_mean_intervals(summaries),
        costs=_mean_costs([row for part in costs.values() for row in part]),
        labels=labels,
        base=_base_point(look, labels, measures),
        identity=identity,
        steps=study.sample.steps,
        digests=_digests(measures / f"{BASE}.parquet", [row for part in costs.values() for row in part]),
    )


def metric_ids(study: ReportStudy, measures: Path) -> dict[str, str]:
    """Name of every metric to its id; empty where the summaries were written before there were ids."""
    found: dict[str, str] = {}
    for run in (BASE, *study.runs):
        found |= ids_of(measures / f"{run}.summary.parquet")
    return found


def training(study: ReportStudy, runs: Path) -> Log:
    """The training logs of all runs; empty for a checkpoint, which was trained elsewhere."""
    trained = study.trained_runs
    return {run: _series(runs / run / "train_log.parquet") if run in trained else {} for run in study.runs}


def _series(path: Path) -> dict[str, Series]:
    found: dict[str, list[tuple[int, float]]] = {}
    for row in tables.read(path, tables.TRAIN_LOG).to_pylist():
        found.setdefault(row["term"], []).append((row["step"], row["value"]))
    ordered = {term: sorted(points) for term, points in found.items()}
    return {t: Series(np.array([s for s, _ in p]), np.array([v for _, v in p])) for t, p in ordered.items()}


def _refuse_other_prompts(scored: Mapping[str, list[dict[str, Any]]], measures: Path) -> None:
    """Raise InputError where a run was measured on a prompt that the base was not, or lacks one."""
    known = {row["prompt_id"] for row in scored[BASE]}
    for run, rows in scored.items():
        if odd := sorted({row["prompt_id"] for row in rows} ^ known):
            raise InputError(
                f"{measures / f'{run}.parquet'}: prompt_id {odd[0]!r} is in the measures of only one of {run} and the "
                "base, expected the same prompts; run measure again"
            )


def _scores(path: Path, run: str, method: str, seed: int) -> pa.Table:
    """The scores of images and of prompts of a run."""
    rows = tables.read(path, tables.MEASURES)
    _refuse_foreign(path, rows, run, method, seed)
    _refuse_unsound(path, rows, ["prompt_id", "sample"], "score")
    return rows.filter(rows["prompt_id"].is_valid())


def _of_images(rows: pa.Table, look: Look, judges: Iterable[str]) -> list[dict[str, Any]]:
    """The scores of single images by judges, of strategies that make no curve."""
    names = rows["strategy"].unique().to_pylist()
    alone = [name for name in names if look.strategy(name).about.role != "curve"]
    chosen = np.isin(rows["strategy"].to_numpy(), alone) & np.isin(rows["metric"].to_numpy(), list(judges))
    return rows.filter(pa.array(chosen & rows["sample"].is_valid().to_numpy())).to_pylist()


def _by_prompt(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows with the mean score per prompt."""
    keys = [*KEYS, "prompt_id", "metric"]
    return rows.group_by(keys, use_threads=False).aggregate([("score", "mean")]).to_pylist()


def _summary(path: Path, run: str, method: str, seed: int) -> list[dict[str, Any]]:
    rows = tables.read(path, tables.SUMMARY)
    _refuse_foreign(path, rows, run, method, seed)
    _refuse_unsound(path, rows, [], "mean")
    return rows.to_pylist()


def _costs(path: Path, run: str, method: str, seed: int) -> list[dict[str, Any]]:
    """Mean costs of every point, and the rewards that its strategy queried, with their digests."""
    counts = ("nfe", "nfe_backward", "seconds", "queries")
    rows = tables.read(path, tables.SAMPLES, ["run", *KEYS, *counts, "rewards", "reward_digests"])
    _refuse_foreign(path, rows, run, method, seed)
    wanted = [*((name, "mean") for name in counts), ("nfe", "count")]
    found = rows.group_by(KEYS, use_threads=False).aggregate(wanted).to_pylist()  # type: ignore[arg-type]
    names = rows["strategy"].to_pylist()
    first = {name: names.index(name) for name in dict.fromkeys(names)}
    asked = {
        name: {"searched": tuple(rows["rewards"][at].as_py()), "digests": tuple(rows["reward_digests"][at].as_py())}
        for name, at in first.items()
    }
    return [row | asked[row["strategy"]] for row in found]


def _digests(judged: Path, costs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name to digest of the models that judged a table of measures, and of those that strategies queried."""
    queried = {name: digest for row in costs for name, digest in zip(row["searched"], row["digests"], strict=False)}
    return queried | {name: said["digest"] for name, said in specification_of(judged)["models"].items()}


def _point(row: Mapping[str, Any]) -> Point:
    return Point(row["method"], row["strategy"], row["value"])


def _arrays(
    rows: Iterable[Mapping[str, Any]], seeds: Mapping[str, tuple[int, ...]], prompts: tuple[str, ...]
) -> dict[tuple[Point, str], np.ndarray]:
    column = {prompt: index for index, prompt in enumerate(prompts)}
    found: dict[tuple[Point, str], np.ndarray] = {}
    for row in rows:
        point, mine = _point(row), seeds[row["method"]]
        key = point, row["metric"]
        if key not in found:
            found[key] = np.full((len(mine), len(prompts)), np.nan)
        found[key][mine.index(row["train_seed"]), column[row["prompt_id"]]] = row["score_mean"]
    return found


def _image_arrays(
    rows: Sequence[Mapping[str, Any]], seeds: Mapping[str, tuple[int, ...]], prompts: tuple[str, ...]
) -> dict[tuple[Point, str], np.ndarray]:
    column = {prompt: index for index, prompt in enumerate(prompts)}
    place = {sample: index for index, sample in enumerate(sorted({row["sample"] for row in rows}))}
    found: dict[tuple[Point, str], np.ndarray] = {}
    for row in rows:
        point, mine = _point(row), seeds[row["method"]]
        key = point, row["metric"]
        if key not in found:
            found[key] = np.full((len(mine), len(prompts), len(place)), np.nan)
        found[key][mine.index(row["train_seed"]), column[row["prompt_id"]], place[row["sample"]]] = row["score"]
    return found


def _mean_intervals(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Point, str], Interval]:
    """Mean, low and high over seeds; an end that some seed does not have is NaN."""
    found: dict[tuple[Point, str], list[tuple[float, float, float]]] = {}
    for row in rows:
        low, high = (float("nan") if row[end] is None else row[end] for end in ("low", "high"))
        found.setdefault((_point(row), row["metric"]), []).append((row["mean"], low, high))
    return {key: Interval(*(float(value) for value in np.mean(values, axis=0))) for key, values in found.items()}


def _mean_costs(rows: Iterable[Mapping[str, Any]]) -> dict[Point, Cost]:
    found: dict[Point, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(_point(row), []).append(row)
    return {point: _mean_cost(every) for point, every in found.items()}


def _mean_cost(rows: Sequence[Mapping[str, Any]]) -> Cost:
    nfe, backward, seconds, queries = (
        float(np.mean([row[f"{name}_mean"] for row in rows])) for name in ("nfe", "nfe_backward", "seconds", "queries")
    )
    return Cost(nfe, seconds, sum(row["nfe_count"] for row in rows), queries, rows[0]["searched"], backward)


def _identity(paths: Iterable[Path]) -> str:
    """The id that all files share: numbers of different prompts, noise or judges must not be compared."""
    first, shared = None, ""
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file (expected what measure writes for every run of the study)")
        identity = evaluation_of(path)
        first, shared = first or path, shared or identity
        if identity != shared:
            raise InputError(f"{path}: measured in evaluation {identity}, but {first} in {shared}; measure both again")
    return shared


def _refuse_foreign(path: Path, rows: pa.Table, run: str, method: str, seed: int) -> None:
    """Refuse a table of another run, or of this run under a method or seed that the study no longer gives it."""
    names = ("run", "method", "train_seed")
    found = {tuple(row[name] for name in names) for row in rows.select(names).group_by(names).aggregate([]).to_pylist()}
    if found != {(run, method, seed)}:
        held = "; ".join(f"{r!r} of {m!r} with seed {s}" for r, m, s in sorted(found)) or "no rows"
        raise InputError(f"{path}: holds {held}, expected only {run!r} of {method!r} with seed {seed}")


def _refuse_unsound(path: Path, rows: pa.Table, items: Sequence[str], values: str) -> None:
    """Refuse a table with a row twice, which would count twice, or with a value that is not finite."""
    refuse_twice(rows, [*KEYS, *items, "metric"], path)
    odd = np.flatnonzero(~np.isfinite(rows[values].to_numpy()))
    if len(odd):
        row = rows.slice(int(odd[0]), 1).to_pylist()[0]
        where = f"{row['metric']!r} under {row['setting']!r}"
        raise InputError(f"{path}: {values} of {where} is {row[values]}, expected a finite number; run measure again")


def _need(study: ReportStudy, known: Iterable[str], measures: Path) -> None:
    found = set(known)
    for key, names in (("rewards", study.report.rewards), ("diversities", study.report.diversities)):
        for name in names:
            if name not in found:
                raise InputError(f"report.{key}: {name!r} has no score per prompt in {measures}{nearest(name, found)}")


def _base_point(look: Look, points: Iterable[Point], measures: Path) -> Point:
    """The base at the guidance scale that the leading strategy gives its base part."""
    wanted = look.leading.base_guidance if look.leading else 1.0
    scales = sorted(point.value for point in points if (point.method, point.strategy) == (BASE, GUIDANCE))
    if wanted not in scales:
        known = ", ".join(f"{scale:g}" for scale in scales)
        limit = f", an end of {look.leading.label}" if look.leading else ""
        raise InputError(
            f"{measures / (BASE + '.parquet')}: no images of the base at guidance {wanted:g}{limit}; "
            f"measured: {known} (see sample.guidance)"
        )
    return Point(BASE, GUIDANCE, wanted)
