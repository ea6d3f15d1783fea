"""The graph of jobs as each of the two runners sees it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow import dvc_file
from workflow.plan import Plan

CHECK = "python -m stages.names params.yaml"
"""What DVC runs before the command of any stage."""
CHOSEN = "chosen"
"""The stage that lets jobs of DVC depend on files that the study chooses."""
FIRST = "plan"
"""The stage that DVC runs before any other; Snakemake does its work while it plans."""


@dataclass(frozen=True)
class Job:
    """One job; `inputs` are files and, for DVC, folders."""

    command: str
    inputs: frozenset[str]
    outputs: frozenset[str]
    stamps: frozenset[str] = frozenset()
    """Files that say what it reads of the study and which code it executes."""


@dataclass(frozen=True)
class Graph:
    """Jobs by name (`finetune@refl-s0`), which job needs which, and the files that the plain command makes.

    `chosen` are jobs that need each other where the study says so: DVC has the stage `chosen` between them.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)
    asked: frozenset[str] = frozenset()
    chosen: set[tuple[str, str]] = field(default_factory=set)


def of_dvc(root: Path) -> Graph:
    """What `dvc repro` would run in the project at `root`."""
    from dvc.repo import Repo

    with _inside(root):
        plan = Plan.read("params.yaml")  # as its first stage does: stages that not every study has are in the file
        made = dvc_file.of(plan.layout)
        (root / "dvc.yaml").write_text(made, encoding="utf-8")
    with _inside(root), Repo(str(root)) as repo:
        index = repo.index
        jobs = {}
        may_choose = {dep.def_path for stage in index.stages if stage.addressing == CHOSEN for dep in stage.deps}
        for stage in index.stages:
            if stage.addressing in (FIRST, CHOSEN):
                continue
            files = frozenset(dep.def_path for dep in stage.deps)
            stamps = frozenset(file for file in files if "/plan/" in file)
            if any("/chosen/" in file for file in files):
                files = frozenset(file for file in files if "/chosen/" not in file) | may_choose
            outputs = frozenset(out.def_path for out in stage.outs)
            check, command = stage.cmd or ("", "")
            assert check == CHECK, stage.addressing
            jobs[_same(stage.addressing)] = Job(_plain(command), files - stamps, outputs, stamps)
        edges = {(_same(later.addressing), _same(earlier.addressing)) for later, earlier in index.graph.edges}
        assert {later for later, earlier in edges if earlier == FIRST} == {CHOSEN, *jobs}
        choosing, choice = ({edge[end] for edge in edges if edge[1 - end] == CHOSEN} for end in (0, 1))
        chosen = {(later, earlier) for later in choosing for earlier in choice}
        edges = {edge for edge in edges if not {FIRST, CHOSEN} & set(edge)}
    return Graph(jobs, edges, chosen=chosen)


def of_snakemake(root: Path) -> Graph:
    """What `snakemake` would run in the project at `root`, were nothing built yet."""
    with _inside(root):
        jobs, edges = {}, set()
        every = list(_snakemake_jobs())
        dag = [(job, needed) for job, needed in every if job.rule.name != "all"]
        asked = frozenset(str(file) for job, _ in every if job.rule.name == "all" for file in job.input)
        names = {job: _name(job) for job, _ in dag}
        for job, needed in dag:
            files = frozenset(map(str, job.input))
            stamps = frozenset(file for file in files if "/plan/" in file)
            shared = frozenset(file for file in stamps if not file.endswith("command.json"))
            jobs[names[job]] = Job(_plain(job.shellcmd), files - stamps, frozenset(map(str, job.output)), shared)
            edges |= {(names[job], names[earlier]) for earlier in needed}
    return Graph(jobs, edges, asked)


def _snakemake_jobs() -> Iterator[tuple[Any, list[Any]]]:
    """Every job with the jobs that it needs; two private calls, as no public one gives this."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        opened = api.workflow(ResourceSettings(cores=1), ConfigSettings(), snakefile=Path("Snakefile"), workdir=Path())
        opened.dag(DAGSettings(forceall=True))
        workflow = opened._workflow
        workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True)
        workflow._build_dag()
        dag = workflow.dag
        assert dag is not None
        for job in dag.jobs:
            yield job, list(dag.dependencies[job])


def _name(job: Any) -> str:
    return "@".join([job.rule.name, *job.wildcards])


def _same(stage: str) -> str:
    """What Snakemake calls a stage of DVC: a template has no entry for the base."""
    return "measure@base" if stage == "measure_base" else stage


def _plain(command: str) -> str:
    """A command without its redirection into a log and with single spaces."""
    return " ".join(re.sub(r">\s*\S+\s+2>&1", "", command).split())


@contextmanager
def _inside(root: Path) -> Iterator[None]:
    """In the folder `root`, with the environment put back at the end."""
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
