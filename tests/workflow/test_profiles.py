"""`--profile slurm` is found from the root, names rules that exist, and leaves the default profile in force."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project, make, small_study

from workflow.cluster import Cluster, cluster
from workflow.jobs import SHARDED, STAGES
from workflow.stage import Stage

EVERY = [*STAGES, *(part for parts in SHARDED.values() for part in parts)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which nothing is built."""
    return make(tmp_path_factory.mktemp("profiles"), small_study())


def test_slurm_resources_name_every_rule_that_is_submitted() -> None:
    """Snakemake ignores resources of unknown rules without a word, and gives unnamed rules the default."""
    submitted = {stage.name for stage in EVERY} - {stage.name for stage in STAGES if stage.local}
    assert cluster(environment={"IMAGEREFL_SITE": os.devnull}).rules.keys() == submitted


def site(folder: Path, text: str) -> Cluster:
    """The resources of a site whose file says `text`."""
    (folder / "site.yaml").write_text(text)
    return cluster(environment={"IMAGEREFL_SITE": str(folder / "site.yaml")})


def test_a_site_lays_its_resources_over_ours(tmp_path: Path) -> None:
    text = """
all: {slurm_partition: main, slurm_account: lab-7}
gpu: {slurm_partition: fast, gpu_model: a100, mem_mb: 60000, slurm_extra: --nice=100}
rules: {finetune: {gpu: 4, slurm_partition: long}, measure: {gpu: null}}
snakemake: {jobs: 7}
"""
    found = site(tmp_path, text)
    assert found.default == {"slurm_partition": "'main'", "slurm_account": "'lab-7'", "cpus_per_task": 1, "runtime": 60,
                             "mem_mb": "4000 * attempt"}  # fmt: skip
    gpu = {
        "slurm_partition": "'fast'",
        "slurm_account": "'lab-7'",
        "gpu_model": "'a100'",
        "slurm_extra": "'--nice=100'",
    }
    assert found.rules["sample"] == gpu | {"gpu": 1, "cpus_per_task": 4, "mem_mb": 60000, "runtime": 720}
    tuned = {"slurm_partition": "'long'", "gpu": 4, "cpus_per_task": 8, "mem_mb": 60000, "runtime": 720}
    assert found.rules["finetune"] == gpu | tuned
    assert found.rules["measure"]["slurm_partition"] == "'main'"
    assert found.rules["measure"]["gpu"] == 0
    assert (found.snakemake["jobs"], found.snakemake["retries"]) == (7, 2)


def test_the_example_of_a_site_is_valid() -> None:
    found = cluster(environment={"IMAGEREFL_SITE": str(ROOT / "slurm/site.example.yaml")})
    assert found.rules["finetune"]["gpu"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus: {gpu: 1}", "gpus: unknown key; did you mean 'gpu'?"),
        ("all: {partition: a}", "all.partition: unknown key; did you mean 'slurm_partition'?"),
        ("rules: {fine_tune: {gpu: 2}}", "rules.fine_tune: unknown key; did you mean 'finetune'?"),
        ("rules: {finetune: 4}", "rules.finetune: expected a mapping, found 4"),
        ("[1, 2]", "the file: expected a mapping, found [1, 2]"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_site_is_refused(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        site(tmp_path, text)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/site.yaml: ")
    assert message in said
    assert said.count("\n") == 1


def test_default_profile_hides_nothing_of_slurms() -> None:
    """A key in both would be taken whole from the default profile."""
    default = yaml.safe_load((ROOT / "profiles/default/profile.yaml").read_text())
    slurm = {
        line.split(":")[0]
        for line in (ROOT / "slurm/profile.yaml").read_text().splitlines()
        if re.match(r"[a-z]", line)
    }
    assert not default.keys() & slurm


def test_slurm_plan(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    monkeypatch.setenv("SLURM_GPU_PARTITION", "fast")
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab-7")
    (project.root / "slurm/site.yaml").write_text("rules: {finetune: {gpu: 2, gpu_model: a100}}")
    text = project.snakemake("--profile", "slurm", "--dry-run").text
    finetune = text[text.index("rule finetune:") :].split("\n\n")[0]
    resources = next(line for line in finetune.splitlines() if "resources:" in line)
    for expected in (
        "slurm_partition=fast",
        "slurm_account=lab-7",
        "gpu=2",
        "gpu_model=a100",
        "cpus_per_task=8",
        "mem_mb=32000",
    ):
        assert expected in resources


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.program)
def test_every_stage_asks_for_what_it_needs(stage: Stage) -> None:
    assert stage.resources.keys() >= {"mem_mb", "runtime"}
    assert stage.about
    assert (stage.flag != "") == (stage.each != "")
