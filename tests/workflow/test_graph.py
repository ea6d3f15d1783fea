"""Snakemake and DVC see the same jobs in every study: same commands, outputs, stamps and order."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest
import yaml
from project import ROOT, make

from workflow import dvc_file
from workflow.plan import Plan

FAST = ("params.yaml", "studies/emoji.yaml", "studies/sd15-hps.yaml", "studies/shapes-from-scratch.yaml",
        "studies/shapes-rl.yaml", "studies/sd15-search.yaml", "studies/smoke.yaml")  # fmt: skip
"""Studies that together have every kind of job; the others are slow."""
STUDIES = [
    pytest.param(study, marks=[] if study in FAST else [pytest.mark.slow])
    for study in sorted(
        str(path.relative_to(ROOT)) for path in [ROOT / "params.yaml", *(ROOT / "studies").glob("*.yaml")]
    )
]


@pytest.fixture(scope="module", params=STUDIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[graphs.Graph, graphs.Graph]:
    """The graph of a study under Snakemake and under DVC."""
    root = make(tmp_path_factory.mktemp("graph"), yaml.safe_load((ROOT / request.param).read_text())).root
    return graphs.of_snakemake(root), graphs.of_dvc(root)


def test_same_jobs_and_order(both: tuple[graphs.Graph, graphs.Graph]) -> None:
    snakemake, dvc = both
    assert snakemake.jobs.keys() == dvc.jobs.keys()
    assert dvc.edges <= snakemake.edges <= dvc.edges | dvc.chosen
    assert len(snakemake.edges) >= len(snakemake.jobs) - 1


@pytest.mark.parametrize("what", ["command", "outputs", "stamps"])
def test_same_jobs_in_detail(both: tuple[graphs.Graph, graphs.Graph], what: str) -> None:
    snakemake, dvc = both
    for name, job in snakemake.jobs.items():
        assert getattr(job, what) == getattr(dvc.jobs[name], what), name


def test_dvc_watches_every_input_of_snakemake(both: tuple[graphs.Graph, graphs.Graph]) -> None:
    """A folder among DVC's dependencies stands for the files in it."""
    snakemake, dvc = both
    for name, job in snakemake.jobs.items():
        watched = dvc.jobs[name].inputs
        unwatched = [file for file in job.inputs if not {file, *map(str, Path(file).parents)} & watched]
        assert not unwatched, name


def test_outputs_are_files_of_one_job(both: tuple[graphs.Graph, graphs.Graph]) -> None:
    snakemake, _ = both
    outputs = [output for job in snakemake.jobs.values() for output in job.outputs]
    assert len(outputs) == len(set(outputs))
    folders = [output for output in outputs if not Path(output).suffix]
    assert not folders


def test_every_output_is_asked_for(both: tuple[graphs.Graph, graphs.Graph]) -> None:
    """So that whatever is missing is made again; see test_missing_outputs.py."""
    snakemake, _ = both
    assert snakemake.asked == {output for job in snakemake.jobs.values() for output in job.outputs}


def test_dvc_yaml_is_written_from_the_table() -> None:
    plan = Plan.read(ROOT / "params.yaml")
    wanted = dvc_file.of(plan.layout)
    assert (ROOT / "dvc.yaml").read_text() == wanted, "stale: write it anew with `make dvc-file`"
