"""Where a number of the page comes from that is no finding: costs, counts of curation, pair accuracies, errors, votes.

A cell names its source by a key of `read`, with `#` and which of the source's numbers it shows.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.about import spelled
from stages.report.measurements import Point

if TYPE_CHECKING:
    from stages.report.data import Background, Folders, ReportData

VOTES = "votes"
LOG = "train_log.parquet"


@dataclass(frozen=True)
class Source:
    """What the window says: a title, pairs of a name and a value in full, and the files that the command makes anew.

    `evaluated` says whether the number is about the images of the evaluation, so that what all of these share is said
    too.
    """

    title: str
    facts: list[tuple[str, str]]
    targets: list[str]
    evaluated: bool = False


def of_point(data: ReportData, point: Point) -> str:
    """The key of what images of a point cost."""
    return f"cost/{point.method}/{point.strategy}/{data.evaluation.labels[point]}"


def of_strategy(name: str) -> str:
    """The key of what images of a strategy cost, over its settings and methods."""
    return f"cost/{name}"


def of_run(run: str) -> str:
    """The key of what a run's training cost."""
    return f"training/{run}"


def of_table(name: str) -> str:
    """The key of the counts of a curated table."""
    return f"curation/{name}"


def of_step(place: int) -> str:
    """The key of what a step of `select` did, from 1; 0 stands for the curated pairs."""
    return f"select/{place}"


def of_accuracy(reward: str) -> str:
    """The key of a reward's pair accuracy."""
    return f"accuracy/{reward}"


def of_student(name: str) -> str:
    """The key of the errors of a distilled model."""
    return f"student/{name}"


def read(data: ReportData, background: Background, folders: Folders) -> dict[str, Source]:
    """Every source that a cell of the page may name."""
    found = {**_costs(data, folders), **_trainings(data, folders)}
    found |= {of_table(name): one for name, one in _curated(background, folders)}
    found |= {of_step(place): one for place, one in _selected(background, folders)}
    found |= {of_accuracy(name): one for name, one in _accuracies(data, background, folders)}
    if folders.predictors is not None:
        for student in background.students:
            path = folders.predictors / student.name / LOG
            both = zip(student.errors, student.tweedie, strict=True)
            facts = [(f"index {i}", f"{own!r}, Tweedie {other!r}") for i, (own, other) in enumerate(both)]
            found[of_student(student.name)] = Source(
                f"Errors of {student.name}", [*facts, _from(path)], [_target(path)]
            )
    if background.people is not None and data.study.report.votes is not None:
        facts = [("votes", background.people.about), _from(Path(data.study.report.votes))]
        made = ("made by", "`python -m stages.votes analyse`, from the votes of people: no command makes these anew")
        found[VOTES] = Source("What people preferred", [*facts, made], [])
    return found


def _costs(data: ReportData, folders: Folders) -> dict[str, Source]:
    """Of every point, and of every strategy with all of its points."""
    evaluation, look = data.evaluation, data.look
    found, ranges = {}, {}
    for point in evaluation.points:
        cost, key = evaluation.costs[point], of_point(data, point)
        how = f"{look.method(point.method)}, {look.strategy(point.strategy).label}, {evaluation.labels[point]}"
        targets = [_target(folders.samples / f"{run}.parquet") for run in data.study.runs_of(point.method)]
        facts = [
            ("network evaluations per image", repr(cost.nfe)), ("of these with gradient", repr(cost.nfe_backward)),
            ("seconds per image", repr(cost.seconds)), ("reward queries per image", repr(cost.queries)),
            ("mean over", f"{cost.images} images"), ("of", how),
        ]  # fmt: skip
        found[key] = Source("Cost of sampling", facts, targets, evaluated=True)
        one = (how, f"{cost.nfe:g} network evaluations, {cost.seconds:.3g} s, {cost.queries:g} queries per image")
        ranges.setdefault(of_strategy(point.strategy), []).append((one, targets))
    for key, parts in ranges.items():
        targets = list(dict.fromkeys(target for _, some in parts for target in some))
        found[key] = Source("Cost of sampling", [one for one, _ in parts], targets, evaluated=True)
    return found


def _trainings(data: ReportData, folders: Folders) -> dict[str, Source]:
    found = {}
    for run in data.study.trained_runs:
        view, path, log = data.study.runs[run], folders.runs / run / LOG, data.log[run]
        sums = (("nfe", "NFE of the tuned network, all images"), ("queries", "queries of the reward"))
        counts = [(words, repr(float(log[term].values.sum()))) for term, words in sums if term in log]
        steps = [("optimizer steps", str(len(log["loss"].steps)))] if "loss" in log else []
        name = f"{data.look.method(view.method)}, seed {view.seed}"
        found[of_run(run)] = Source(f"Cost of training {name}", [*steps, *counts, _from(path)], [_target(path)])
    return found


def _curated(background: Background, folders: Folders) -> Iterator[tuple[str, Source]]:
    path = folders.data / "manifest.json"
    for name, count in background.manifest.tables.items():
        removed = [(f"removed by {spelled(step.name)}", str(step.removed)) for step in count.filters]
        splits = [(f"kept for {split}", str(number)) for split, number in count.splits.items()]
        facts = [("rows in", str(count.entered)), *removed, ("rows kept", str(count.left)), *splits, _from(path)]
        yield name, Source(f"Curation of {spelled(name)}", facts, [_target(path)])


def _selected(background: Background, folders: Folders) -> Iterator[tuple[int, Source]]:
    if background.selection is None or folders.select is None:
        return
    path, steps = folders.select, background.selection.steps
    yield (
        0,
        Source("Curated training pairs", [("pairs", str(background.selection.entered)), _from(path)], [_target(path)]),
    )
    for place, step in enumerate(steps, start=1):
        counts = step.model_dump(exclude={"name"})
        facts = [("step", f"{place} of {len(steps)}, {step.name}"), *((name, str(n)) for name, n in counts.items())]
        yield place, Source("Labels and choice of pairs", [*facts, _from(path)], [_target(path)])


def _accuracies(data: ReportData, background: Background, folders: Folders) -> Iterator[tuple[str, Source]]:
    ids: Mapping[str, str] = background.metric_ids
    for one in background.accuracies:
        path = folders.scores / f"{one.reward}.json"
        sides = (
            ("validation", one.accuracy, one.low, one.high, one.pairs),
            ("training", one.train_accuracy, one.train_low, one.train_high, one.train_pairs),
        )
        facts = []
        for side, mean, low, high, pairs in sides:
            between = f", 95% interval {low!r} to {high!r} over prompts" if low is not None else ""
            facts.append((f"on {side} pairs", "no pairs" if mean is None else f"{mean!r}{between}, {pairs} pairs"))
        judge = [("judge", ids[one.reward])] if one.reward in ids else []
        yield (
            one.reward,
            Source(f"Pair accuracy of {spelled(one.reward)}", [*facts, *judge, _from(path)], [_target(path)]),
        )


def _from(path: Path) -> tuple[str, str]:
    return "stands in", str(path)


def _target(path: Path) -> str:
    return shlex.quote(str(path))
