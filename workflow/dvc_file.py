"""`dvc.yaml` from the table of jobs: `python -m workflow.dvc_file` writes it anew (`make dvc-file`).

Jobs of the study stand in it as templates that DVC fills from params.yaml, so editing the study leaves it as it is,
except that runs are named in it where some of them are checkpoints, and the earlier report where there is one. Its
first stage checks the study and writes the stamps that all others depend on; it also sees whether this file is stale.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from stages.report import figure
from stages.study import load
from workflow.files import written
from workflow.jobs import STAGES
from workflow.layout import Layout
from workflow.stage import Chosen, Folder, Needed, Place, Scores, Stage

FILE = Path("dvc.yaml")
OUT = "out/${study.name}"
CHECK = "python -m stages.names params.yaml"
"""DVC pastes names of the study into shell lines; this lets only plain ones pass. After a command that fails DVC runs
no other.
"""
HEAD = """\
# The study of params.yaml, run by DVC: `dvc repro`. Written by `python -m workflow.dvc_file` from workflow/jobs.py, as
# Snakemake's rules are; edit that. For another study: cp studies/smoke.yaml params.yaml
#
# `plan` runs first: it checks the study and writes, for every job, the settings that it reads and the digests of the
# code that it executes. The job depends on these, and on its data; a folder of results stands for what other jobs write
# into it. `data`, `shipped` and `votes` hold files from outside.

"""
PLOTS = Path(__file__).with_name("plots.yaml")
"""What `dvc metrics` and `dvc plots` show of the report."""


@dataclass(frozen=True)
class Runs:
    """Runs of a study of which some are checkpoints: those that are trained here, and the others with their places."""

    trained: Sequence[str] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)


def content(
    crosses: bool = False, report: Sequence[str] | None = None, needs: Collection[str] = (), runs: Runs | None = None,
    earlier: str = "",
) -> str:  # fmt: skip
    """The text of dvc.yaml; `crosses` where jobs of a run read what other runs have trained, `report` what the report
    consists of: by default that of a study without figures of its own. `needs` is that of `Layout.needs`; `runs` are
    named in a study with checkpoints, and `earlier` is the page that the report is compared with, if any.
    """
    files = figure.outputs() if report is None else report
    stages: dict[str, Any] = {"plan": _plan()}
    for stage in STAGES:
        if stage.section and stage.section not in needs:
            continue
        if _chooses(stage) and "chosen" not in stages:
            stages["chosen"] = _chosen(crosses, "students" in needs)
        stages |= dict(_stages(_without_unneeded(stage, needs), files, runs or Runs()))
    stages["report"]["deps"] += [_literal(earlier)] if earlier else []
    body = yaml.dump({"stages": stages}, Dumper=_Dumper, sort_keys=False, width=118)
    return f"{HEAD}{body}\n{PLOTS.read_text(encoding='utf-8')}"


def of(layout: Layout) -> str:
    """The text of dvc.yaml for a study."""
    runs = Runs(layout.trained_runs, layout.checkpoints) if layout.checkpoints else None
    return content(layout.crosses, layout.report_files, layout.needs, runs, layout.earlier_report)


def _plan() -> dict[str, Any]:
    outs = [{f"{OUT}/plan": {"cache": False, "persist": True}}]
    return {
        "desc": "Check the study; write settings and code of every job", "cmd": "python -m workflow.plan params.yaml",
        "always_changed": True, "outs": outs,
    }  # fmt: skip


def _chosen(crosses: bool, students: bool) -> dict[str, Any]:
    folders = ["models", *(["runs"] if crosses else []), *(["encodings"] if students else [])]
    return {
        "desc": "Write which rewards and networks a sampling job reads, and their digests",
        "cmd": "python -m workflow.chosen params.yaml", "always_changed": True,
        "deps": [f"{OUT}/plan", *(f"{OUT}/{folder}" for folder in folders)],
        "outs": [{f"{OUT}/chosen": {"cache": False, "persist": True}}],
    }  # fmt: skip


def _without_unneeded(stage: Stage, needs: Collection[str]) -> Stage:
    """A stage that reads only what the study needs."""

    def needed(place: Place) -> bool:
        need = place.data if isinstance(place, Needed) else place.need if isinstance(place, Chosen) else ""
        return not need or need in needs

    return replace(stage, reads={flag: one for flag, one in stage.reads.items() if needed(one)})


def _chooses(stage: Stage) -> bool:
    return any(isinstance(place, Chosen) for place in stage.reads.values())


def _stages(stage: Stage, report: Sequence[str], runs: Runs) -> Iterator[tuple[str, dict[str, Any]]]:
    """The stages of DVC for one of ours: a template over the entries of the study, and the job of the base."""
    if stage.entries == "checkpoints":
        if runs.checkpoints:
            job = _job(stage, "${key}", report)
            job["deps"].append("${item}")
            places = {name: _literal(place) for name, place in runs.checkpoints.items()}
            yield stage.name, {"foreach": places, "do": job}
    elif stage.entries == "trained" and runs.checkpoints:
        if runs.trained:
            yield stage.name, {"foreach": list(runs.trained), "do": _job(stage, "${item}", report)}
    elif stage.each:
        item = "${item}" if stage.each == "score.rewards" else "${key}"
        yield stage.name, {"foreach": f"${{{stage.each}}}", "do": _job(stage, item, report)}
    else:
        yield stage.name, _job(stage, "", report)
    if stage.base:
        yield f"{stage.name}_base", _job(stage, "base", report)


def _literal(place: str) -> str:
    """A path in which DVC fills in nothing."""
    return place.replace("${", "\\${")


def _job(stage: Stage, name: str, report: Sequence[str]) -> dict[str, Any]:
    def path(place: str) -> str:
        named = {
            "{name}": name, "{reward}": "${study.reward}", "{heldout}": "${study.heldout}",
            "{oracle}": "${finetune.probe.oracle}", "{features}": "${item.features}",
        }  # fmt: skip
        for placeholder, value in named.items():
            place = place.replace(placeholder, value)
        return f"{OUT}/{place}"

    job = f"{stage.name}@{name}" if name else stage.name
    words = [f"python -m stages.{stage.program} --params params.yaml"]
    words += [f"--{stage.flag} {name}"] if stage.flag else []
    for flag, place in (stage.reads | stage.writes).items():
        words.append(f"--{flag} {path(place if isinstance(place, str) else place.path)}")
    stamps = [f"plan/{job}/settings.json", f"plan/{job}/code.json"]
    stamps += [f"chosen/{job}.json"] if _chooses(stage) else []
    folders = [f"{place.path}/" for place in stage.reads.values() if isinstance(place, Folder) and not place.files]
    reads = [file for place in stage.reads.values() for file in _read(place) if not file.startswith(tuple(folders))]
    return {
        "desc": stage.about,
        "cmd": [CHECK, " ".join(words)],
        "deps": [*map(path, stamps), *stage.outside, *map(path, reads)],
        "outs": [path(file) for file in written(stage, report)],
    }


def _read(place: Place) -> Iterator[str]:
    if isinstance(place, str):
        yield place
    elif isinstance(place, Needed | Scores):
        yield place.path
    elif isinstance(place, Folder):
        yield from (f"{place.path}/{file}" for file in place.files) if place.files else [place.path]


class _Dumper(yaml.SafeDumper):
    """Items of lists stand under their key, two columns in."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(prog="python -m workflow.dvc_file", description=__doc__).parse_args()
    load("params.yaml")  # refuses a study that is wrong
    FILE.write_text(of(Layout.read("params.yaml")), encoding="utf-8")


if __name__ == "__main__":
    main()
