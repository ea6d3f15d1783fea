"""Where a number comes from: its evaluation, its judge, how images were sampled, the command that makes it anew."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.measure.evaluation import specification_of
from stages.report import load
from stages.report.look import BASE

if TYPE_CHECKING:
    from stages.report.data import Folders, ReportData
    from stages.report.settings import ReportStudy


@dataclass(frozen=True)
class Provenance:
    """What all numbers of the page share, and what those of a metric, a strategy or a method do.

    `facts` are pairs of a name and a value. `judges` maps a metric to the model, digest and preprocessing that it rests
    on. `guidance` maps a strategy to its guidance scales. `targets` maps a method to the files of its runs that
    Snakemake makes; `command` is the command line before them, `report` the page itself. `specification` is everything
    that the evaluation id stands for.
    """

    facts: list[tuple[str, str]]
    judges: Mapping[str, str]
    guidance: Mapping[str, str]
    targets: Mapping[str, list[str]]
    command: str
    report: str
    specification: Mapping[str, Any]


def read(data: ReportData, folders: Folders) -> Provenance:
    """The provenance of a study's numbers; raises InputError where the measures of the base cannot be read."""
    study = data.study
    said = specification_of(folders.measures / f"{BASE}.summary.parquet")
    return Provenance(
        _facts(data, said), load.metric_ids(study, folders.measures), _guidance(study), _targets(study, folders),
        f"snakemake --cores all --config study={shlex.quote(str(folders.params))} --force",
        shlex.quote(str(folders.out / "index.html")), said,
    )  # fmt: skip


def _facts(data: ReportData, said: Mapping[str, Any]) -> list[tuple[str, str]]:
    sampling = said.get("sampling", {})
    width, height = said["resolution"]
    return [
        ("evaluation id", data.evaluation.identity),
        ("prompts × images", f"{said['n_prompts']} × {said['samples']}"),
        ("sampler", f"{sampling.get('sampler', 'not recorded')}, {sampling.get('steps', '?')} steps"),
        ("size", f"{width} × {height} pixels"),
        ("seed of the noise", str(said["seed"])),
        ("prompt suite", str(said["prompts"])),
    ]


def _guidance(study: ReportStudy) -> dict[str, str]:
    """The guidance scales of every strategy of the study; those of `sample.guidance` are its settings."""
    return {
        name: f"{view.guidance:g} of the tuned network, {view.base_guidance:g} of the base"
        for name, view in study.sample.strategies.items()
    }


def _targets(study: ReportStudy, folders: Folders) -> dict[str, list[str]]:
    return {
        method: [shlex.quote(str(folder / f"{run}.parquet")) for run in study.runs_of(method)
                 for folder in (folders.samples, folders.measures)]
        for method in (BASE, *study.methods)
    }  # fmt: skip
