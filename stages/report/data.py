"""Everything that the report reads, and everything that a figure may draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stages.decided.shares import Share
from stages.report import curation, decided, load, people, selection, students
from stages.report.findings import Findings
from stages.report.look import Look
from stages.report.measurements import Log, Measurements
from stages.report.people import People
from stages.report.selection import Selection
from stages.report.settings import ReportStudy
from stages.report.students import Student
from stages.report.verdict import find


@dataclass(frozen=True)
class Folders:
    """Where the results of the other stages stand, and where the report goes."""

    data: Path
    scores: Path
    runs: Path
    samples: Path
    measures: Path
    out: Path
    predictors: Path | None = None
    decided: Path | None = None
    """The table of shares."""
    select: Path | None = None
    """What the steps over pairs did (JSON)."""
    params: Path = Path("params.yaml")
    """The study file, as the commands on the page name it."""
    against: Path | None = None
    """An earlier report of this study, if this one is compared with it."""


class Logged(Protocol):
    """The part of `ReportData` that figures of training logs draw from; a study keeps as much with its results."""

    @property
    def study(self) -> ReportStudy: ...

    @property
    def look(self) -> Look: ...

    @property
    def log(self) -> Log: ...


@dataclass(frozen=True)
class ReportData:
    """What figures draw from: settings, names and colours, measurements, findings, training logs, and the folder of the
    sample tables (`RUN.parquet`); of a study with a section `decided`, its shares. `starts` are the indices at which
    methods start, by method.
    """

    study: ReportStudy
    look: Look
    evaluation: Measurements
    findings: Findings
    log: Log
    samples: Path
    decided: Sequence[Share] = ()
    starts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Background:
    """What the page says besides: curation, rewards against preferences, ids of the metrics, votes, predictors, choice
    of pairs.
    """

    manifest: curation.Manifest
    accuracies: Sequence[curation.Accuracy]
    metric_ids: Mapping[str, str]
    people: People | None
    students: Sequence[Student]
    selection: Selection | None = None


def read(study: ReportStudy, measures: Path, samples: Path, runs: Path, shares: Path | None = None) -> ReportData:
    """Read the measurements of a study and compute its findings; raises InputError for anything missing or foreign."""
    look = Look.of(study)
    evaluation = load.evaluation(study, look, measures, samples)
    log = load.training(study, runs)
    findings = find(study, look, evaluation)
    starts = decided.starts(study, log)
    return ReportData(study, look, evaluation, findings, log, samples, decided.read(study, shares), starts)


def background(study: ReportStudy, folders: Folders) -> Background:
    """Read the rest of what the page shows; raises InputError for anything missing or foreign."""
    return Background(
        curation.manifest(folders.data / "manifest.json"), curation.accuracies(study, folders.scores),
        load.metric_ids(study, folders.measures), people.read(study, folders.samples),
        students.read(folders.predictors), selection.read(study, folders.select),
    )  # fmt: skip
