"""What figures draw from, of the results that a study keeps (`stages.report.results`): scores by prompt, and costs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stages import tables
from stages.errors import InputError
from stages.report.claims import Interval
from stages.report.data import ReportData
from stages.report.look import BASE, GUIDANCE, Look
from stages.report.measurements import Cost, Measurements, Point
from stages.report.settings import ReportStudy
from stages.report.verdict import find


def read(study: ReportStudy, results: Path) -> ReportData:
    """The measurements in `scores.parquet` and `costs.parquet`, and their findings; without images and training logs.

    Raises InputError for a missing or foreign file, a score of a point without costs, and a study of other methods.
    """
    costs_file = results / "costs.parquet"
    if not costs_file.is_file():
        raise InputError(f"{costs_file}: no such file; results that were kept before costs were have none")
    spent = tables.read(costs_file, tables.COSTS).to_pylist()
    points = {(row["method"], row["strategy"], row["setting"]): _point(row) for row in spent}
    scores = tables.read(results / "scores.parquet", tables.RESULTS).to_pylist()
    prompts = tuple(sorted({row["prompt_id"] for row in scores}))
    seeds = {
        method: tuple(sorted({row["train_seed"] for row in scores if row["method"] == method}))
        for method in dict.fromkeys(row["method"] for row in scores)
    }
    if odd := [method for method in seeds if method not in {BASE, *study.methods}]:
        raise InputError(f"{results / 'scores.parquet'}: method {odd[0]!r} is not one of the study")
    arrays: dict[tuple[Point, str], np.ndarray] = {}
    for row in scores:
        key = row["method"], row["strategy"], row["setting"]
        if key not in points:
            raise InputError(f"{costs_file}: nothing about {' '.join(key)}, which has scores; keep the results again")
        shape = len(seeds[row["method"]]), len(prompts)
        array = arrays.setdefault((points[key], row["metric"]), np.full(shape, math.nan))
        array[seeds[row["method"]].index(row["train_seed"]), prompts.index(row["prompt_id"])] = row["score"]
    look = Look.of(study)
    scale = look.leading.base_guidance if look.leading else 1.0
    evaluation = Measurements(
        prompts=prompts, seeds=seeds, arrays=arrays,
        summaries=dict.fromkeys(arrays, Interval(math.nan, math.nan, math.nan)),  # those of arrays are bootstrapped
        costs={_point(row): _cost(row) for row in spent}, labels={_point(row): row["setting"] for row in spent},
        base=Point(BASE, GUIDANCE, scale), identity="", steps=study.sample.steps,
    )  # fmt: skip
    if evaluation.base not in evaluation.labels:
        raise InputError(f"{costs_file}: no images of the base at guidance {scale:g}")
    return ReportData(study, look, evaluation, find(study, look, evaluation), {}, Path())


def costs(data: ReportData) -> list[dict[str, object]]:
    """What an image of every point costs: the rows of `costs.parquet`."""
    found = data.evaluation
    return [
        {
            "method": point.method, "strategy": point.strategy, "setting": label, "value": point.value,
            "nfe": spent.nfe, "nfe_backward": spent.nfe_backward, "queries": spent.queries,
            "seconds": spent.seconds, "images": spent.images, "searched": list(spent.searched),
        }
        for point, label in found.labels.items() if (spent := found.costs.get(point)) is not None
    ]  # fmt: skip


def _point(row: dict[str, object]) -> Point:
    return Point(str(row["method"]), str(row["strategy"]), float(str(row["value"])))


def _cost(row: dict[str, object]) -> Cost:
    counts = {name: float(str(row[name])) for name in ("nfe", "seconds", "queries", "nfe_backward")}
    searched = row["searched"]
    assert isinstance(searched, list)
    return Cost(images=int(str(row["images"])), searched=tuple(searched), **counts)
