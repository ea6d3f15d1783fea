"""Measure the images of one run: rows per image, prompt and set, and their summary with intervals over prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stages import plugins, tables
from stages.errors import InputError, RowError
from stages.measure.bootstrap import Interval, interval, jackknife
from stages.measure.evaluation import Evaluation, prompt_suite, with_ids
from stages.measure.expected import KEY
from stages.measure.identity import metric_ids
from stages.measure.images import Batches, Row
from stages.measure.panel import Panel
from stages.measure.passing import passing
from stages.measure.reference import for_sets, read_reference
from stages.measure.released import mean_of_batches
from stages.measure.scored import ScoredImages, Scoring, Verdict, join
from stages.measure.setting import Ledger, Setting
from stages.measure.settings import ALWAYS, GROUP, PACKAGE, MeasureSettings, PassingSettings
from stages.measure.statistics import Reference
from stages.resume import State
from stages.runtime import progress

if TYPE_CHECKING:
    from stages.measure.judges import Judges

V = TypeVar("V")


@dataclass(frozen=True)
class Metrics:
    """The metrics of a study by what they are a metric of."""

    image: Mapping[str, Callable[[ScoredImages], Mapping[str, np.ndarray]]]
    prompt: Mapping[str, Callable[[ScoredImages], Mapping[str, float]]]
    set: Mapping[str, Callable[[np.ndarray, Reference], Callable[[np.ndarray], float]]]
    ranges: Mapping[str, tuple[float, float]]
    """Of set metrics: the values they can take, to which intervals are cut."""


def load_metrics(settings: MeasureSettings) -> Metrics:
    """Import the metrics of a study; raises InputError where one needs an embedding and the study has none."""
    scopes: dict[str, dict[str, Any]] = {"image": {}, "prompt": {}, "set": {}}
    ranges: dict[str, tuple[float, float]] = {}
    for name in dict.fromkeys([*ALWAYS, *settings.set_metrics]):
        module: ModuleType = plugins.load(PACKAGE, GROUP, name, "measure.set_metrics")
        scope = getattr(module, "SCOPE", None)
        if scope not in scopes or not callable(getattr(module, "metric", None)):
            raise InputError(
                f"metric {name!r}: expected SCOPE image, prompt or set and a function metric, found {scope!r}"
            )
        scopes[scope][name] = module.metric
        ranges[name] = getattr(module, "RANGE", (-math.inf, math.inf))
    if scopes["set"] and settings.space is None:
        first = next(iter(scopes["set"]))
        raise InputError(
            f"measure.set_metrics: {first!r} compares embeddings, but no model in measure.features gives one"
        )
    return Metrics(**scopes, ranges=ranges)


def scoring_by(judges: Judges, metrics: Metrics) -> Scoring:
    """Scoring by the models themselves."""

    def score(place: int, rows: list[Row], pixels: np.ndarray) -> Verdict:
        try:
            images = judges.score(pixels, [row["prompt"] for row in rows])
        except RowError as error:
            row = rows[error.row]
            where = f"strategy {row['strategy']}, {row['setting']}, prompt {row['prompt_id']}, sample {row['sample']}"
            raise InputError(f"{where}: {error}") from None
        return Verdict(images, _values(metrics.image, images))

    return score


def measure(
    settings: MeasureSettings, metrics: Metrics, panel: Panel, scoring: Scoring, seed: int, batches: Batches,
    reference: Path, measures: Path, summary: Path, sampling: Mapping[str, object] | None = None,
    state: State | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure every image of `batches`, write both tables, and return the rows of the summary.

    `scoring` gives what the models in `panel` say. Goes on after the batches that `state` holds.
    """
    real, images = read_reference(settings, panel, reference) if metrics.set else (None, "")
    sets = {"space": settings.space, "directions": settings.directions, "neighbours": settings.neighbours}
    evaluation = Evaluation(
        prompts=prompt_suite(batches.prompts),
        n_prompts=len(batches.prompts),
        samples=min(count for setting in batches.expected.values() for count in setting.values()),
        resolution=batches.resolution,
        seed=seed,
        sampling=sampling or {},
        sets=sets | {"images": images} if real else {},
        models=panel.identities,
        spaces=settings.spaces,
        passing={} if settings.passing in (None, PassingSettings()) else settings.passing.model_dump(),
        released={key: value for key, value in settings.as_released.model_dump().items() if value is not None},
    )
    done: list[dict[str, Any]] = []

    def tables_of_settings() -> Iterator[Any]:
        for setting in _finished(settings, scoring, metrics, batches, state or State()):
            done.extend(_finish(setting, settings, metrics, real, seed))
            yield _measures(setting)

    tables.write(measures, tables_of_settings(), evaluation.schema(tables.MEASURES))
    ids = metric_ids(settings, panel, dict.fromkeys(row["metric"] for row in done))
    tables.write(summary, tables.table(tables.SUMMARY, done), with_ids(evaluation.schema(tables.SUMMARY), ids))
    return done


def _finished(
    settings: MeasureSettings, scoring: Scoring, metrics: Metrics, batches: Batches, state: State
) -> Iterator[Setting]:
    """Every setting, as soon as its last image has been scored. What waits in memory are incomplete prompts."""
    open_settings = {key: Setting(key, Counter(counts)) for key, counts in batches.expected.items()}
    ledger = Ledger(list(batches.expected), state)
    yield from ledger.resume(open_settings)
    for place, rows in enumerate(progress(batches.rows(), len(batches), "measure")):
        if place < ledger.batches:
            continue
        verdict = scoring(place, rows, batches.pixels(rows))
        groups: dict[tuple[tuple[object, ...], str], list[int]] = {}
        for index, row in enumerate(rows):
            key = tuple(row[name] for name in KEY)
            groups.setdefault((key, row["prompt_id"]), []).append(index)
            for name, scores in verdict.values.items():
                open_settings[key].add(name, row["prompt_id"], row["sample"], float(scores[index]))
        for (key, prompt), indices in groups.items():
            setting = open_settings[key]
            setting.waiting.setdefault(prompt, []).append(verdict.images.take(indices))
            setting.left[prompt] -= len(indices)
            if not setting.left[prompt]:
                del setting.left[prompt]
                _finish_prompt(setting, prompt, metrics, settings)
            if not setting.left:
                ledger.close(setting)
                yield open_settings.pop(key)
        ledger.end_batch(open_settings)


def _values(metrics: Mapping[str, Callable[[ScoredImages], Mapping[str, V]]], images: ScoredImages) -> dict[str, V]:
    """The values of all metrics of one scope; raises InputError where two give the same name."""
    found: dict[str, V] = {}
    for source, metric in metrics.items():
        for name, value in metric(images).items():
            if name in found:
                raise InputError(f"metric {source!r}: {name!r} is measured already; expected every name once")
            found[name] = value
    return found


def _finish_prompt(setting: Setting, prompt: str, metrics: Metrics, settings: MeasureSettings) -> None:
    images, space = join(setting.waiting.pop(prompt)), settings.space
    found = _values(metrics.prompt, images)
    if settings.passing is not None:
        own = {name: values[prompt] for name, values in setting.values.items() if prompt in values}
        found |= passing(settings.passing, own, images, found, lambda kept: _values(metrics.prompt, kept))
    for name, score in found.items():
        setting.add(name, prompt, None, float(score))
    if space is not None:
        setting.features.append(images.embeddings[space])
        setting.owners += [prompt] * len(images)


def _finish(
    setting: Setting, settings: MeasureSettings, metrics: Metrics, real: Reference | None, seed: int
) -> list[dict[str, Any]]:
    """Summary rows of a setting; the values of its set metrics join its rows."""
    found: dict[str, Interval] = {}
    for name, by_prompt in setting.values.items():
        try:
            found[name] = interval(by_prompt, settings.bootstrap, settings.interval, seed)
        except InputError as error:
            raise InputError(f"metric {name!r}: {error}") from None
    batch = settings.as_released.bfloat16_means
    if batch is not None:
        found = {name: _released(setting, name, value, batch) for name, value in found.items()}
    if real is not None and len(setting.owners) > 1:
        features = for_sets(settings, np.concatenate(setting.features))
        for name, metric in metrics.set.items():
            value = jackknife(metric(features, real), setting.owners, settings.interval, seed)
            found[name] = value.within(*metrics.ranges[name])
            setting.rows.append((None, None, name, found[name].mean))
    return [_summary_row(setting.key, name, value) for name, value in found.items()]


def _released(setting: Setting, metric: str, found: Interval, batch: int) -> Interval:
    """The released code's mean in place of a metric's own, where it is one of images."""
    scores = [score for _, sample, name, score in setting.rows if name == metric and sample is not None]
    return replace(found, mean=mean_of_batches(scores, batch)) if scores else found


def _summary_row(key: tuple[object, ...], metric: str, found: Interval) -> dict[str, Any]:
    row = dict(zip(KEY, key, strict=True))
    return row | {
        "metric": metric, "mean": found.mean, "low": found.low, "high": found.high, "n_prompts": found.n_prompts,
    }  # fmt: skip


def _measures(setting: Setting) -> Any:
    head: dict[str, object] = dict(zip(KEY, setting.key, strict=True))
    tail: tuple[str, ...] = ("prompt_id", "sample", "metric", "score")
    rows: list[dict[str, object]] = [head | dict(zip(tail, row, strict=True)) for row in setting.rows]
    return tables.table(tables.MEASURES, rows)
