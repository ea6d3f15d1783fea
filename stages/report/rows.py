"""The numbers as rows: every metric of every setting, and its paired differences."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.report import claims
from stages.report.claims import Interval
from stages.report.load import BASE, Cost, Evaluation, Point
from stages.report.settings import ReportStudy
from stages.report.verdict import Bootstrap
from stages.runtime import whole_file


@dataclass(frozen=True)
class Estimate:
    """A metric of one point, mean over training seeds and prompts, with its interval over prompts."""

    point: Point
    metric: str
    interval: Interval
    cost: Cost


@dataclass(frozen=True)
class Difference:
    """The mean paired difference of a metric between a point and another of the method `against` (or `base`)."""

    point: Point
    metric: str
    against: str
    interval: Interval


def estimates(evaluation: Evaluation, bootstrap: Bootstrap) -> list[Estimate]:
    """Every metric of every point.

    For metrics of a whole set of images (FID, ...) the interval is the mean over the seeds of those that `measure`
    found, which is what it would be if the seeds erred alike: not too narrow.
    """
    found = []
    for (point, metric), summary in evaluation.summaries.items():
        interval = summary
        if (point, metric) in evaluation.arrays:
            statistic = claims.means(bootstrap.draws, evaluation.arrays[point, metric])
            interval = Interval.of(statistic, bootstrap.level)
        found.append(Estimate(point, metric, interval, evaluation.costs[point]))
    return found


def differences(study: ReportStudy, evaluation: Evaluation, bootstrap: Bootstrap) -> list[Difference]:
    """Paired differences of every metric that has a score a prompt: against the base, and against the reference method
    under the same strategy and setting."""
    found = []
    for point, other, name in _pairs(study, evaluation):
        for metric in evaluation.metrics:
            if (point, metric) in evaluation.arrays and (other, metric) in evaluation.arrays:
                mine, theirs = evaluation.scores(point, metric), evaluation.scores(other, metric)
                statistic = claims.difference(bootstrap.draws, mine, theirs)
                found.append(Difference(point, metric, name, Interval.of(statistic, bootstrap.level)))
    return found


def _pairs(study: ReportStudy, evaluation: Evaluation) -> Iterator[tuple[Point, Point, str]]:
    """Every point with the base, then with the same setting of the reference method."""
    reference = study.study.reference
    for point in evaluation.points:
        if point != evaluation.base:
            yield point, evaluation.base, BASE
        same = Point(reference, point.strategy, point.value)
        if point.method not in (BASE, reference) and same in evaluation.labels:
            yield point, same, reference


def summary_rows(evaluation: Evaluation, found: Sequence[Estimate]) -> list[dict[str, object]]:
    """Rows of `summary.csv`."""
    return [
        {**_about(evaluation, one.point), "metric": one.metric, **_numbers(one.interval), "nfe": one.cost.nfe,
         "seconds": one.cost.seconds}
        for one in found
    ]  # fmt: skip


def difference_rows(evaluation: Evaluation, found: Sequence[Difference]) -> list[dict[str, object]]:
    """Rows of `differences.csv`; `clear` is 1 or -1 where the whole interval lies above or below zero, else 0."""
    return [
        {**_about(evaluation, one.point), "metric": one.metric, "against": one.against, **_numbers(one.interval),
         "clear": one.interval.sign()}
        for one in found
    ]  # fmt: skip


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows of the same keys as CSV, numbers with six significant digits, whole or not at all."""
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0] if rows else [])
        writer.writerows([_text(value) for value in row.values()] for row in rows)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return str(value)


def _about(evaluation: Evaluation, point: Point) -> dict[str, object]:
    return {
        "method": point.method, "strategy": point.strategy, "setting": evaluation.labels[point], "value": point.value,
        "seeds": len(evaluation.seeds[point.method]), "n_prompts": len(evaluation.prompts),
    }  # fmt: skip


def _numbers(interval: Interval) -> dict[str, object]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
