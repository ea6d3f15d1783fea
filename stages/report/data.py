"""Everything that the report reads, and everything that a figure may draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.report import curation, load, people, students
from stages.report.findings import Findings
from stages.report.load import Evaluation, Log
from stages.report.look import Look
from stages.report.people import People
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


@dataclass(frozen=True)
class ReportData:
    """What figures draw from: settings, names and colours, measurements, findings, training logs, and the folder of the
    sample tables (`RUN.parquet`).
    """

    study: ReportStudy
    look: Look
    evaluation: Evaluation
    findings: Findings
    log: Log
    samples: Path


@dataclass(frozen=True)
class Background:
    """What the page says besides: curation, rewards against preferences, ids of the metrics, votes, predictors."""

    manifest: curation.Manifest
    accuracies: Sequence[curation.Accuracy]
    metric_ids: Mapping[str, str]
    people: People | None
    students: Sequence[Student]


def read(study: ReportStudy, measures: Path, samples: Path, runs: Path) -> ReportData:
    """Read the measurements of a study and compute its findings; raises InputError for anything missing or foreign."""
    look = Look.of(study)
    evaluation = load.evaluation(study, look, measures, samples)
    log = load.training(study, runs)
    return ReportData(study, look, evaluation, find(study, look, evaluation), log, samples)


def background(study: ReportStudy, folders: Folders) -> Background:
    """Read the rest of what the page shows; raises InputError for anything missing or foreign."""
    return Background(
        curation.manifest(folders.data / "manifest.json"), curation.accuracies(study, folders.scores),
        load.metric_ids(study, folders.measures), people.read(study, folders.samples),
        students.read(folders.predictors),
    )  # fmt: skip
