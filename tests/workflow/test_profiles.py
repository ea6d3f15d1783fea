"""`--profile slurm` is found from the root, names rules that exist, and leaves the default profile in force."""

from __future__ import annotations

import re

import pytest
import yaml
from project import ROOT, Project, make, small_study

RULE_FILES = sorted((ROOT / "workflow/rules").glob("*.smk"))
RULES = {rule for file in RULE_FILES for rule in re.findall(r"^rule (\w+):", file.read_text(), re.M)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which nothing is built."""
    return make(tmp_path_factory.mktemp("profiles"), small_study())


def test_slurm_profile_names_rules_that_exist() -> None:
    """Snakemake ignores resources of unknown rules without a word."""
    profile = (ROOT / "slurm/profile.yaml").read_text()
    named = set(re.findall(r"^  (\w+): +\{", profile, re.M))
    assert named
    assert named <= RULES


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
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    text = project.snakemake("--profile", "slurm", "--dry-run").text
    finetune = text[text.index("rule finetune:") :].split("\n\n")[0]
    resources = next(line for line in finetune.splitlines() if "resources:" in line)
    for expected in ("slurm_partition=fast", "slurm_account=lab", "gpu=1", "cpus_per_task=8", "mem_mb=32000"):
        assert expected in resources


def test_every_rule_is_complete() -> None:
    """Each rule says what it reads, writes, logs, how long it took, and what it needs."""
    for file in RULE_FILES:
        for text in re.split(r"^rule ", file.read_text(), flags=re.M)[1:]:
            for part in ("input", "output", "log", "benchmark", "threads", "resources", "shell"):
                assert re.search(rf"^    {part}:", text, re.M), f"{file.name}: {text.splitlines()[0]} {part}"
