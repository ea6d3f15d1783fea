"""Files that a sampling job reads because the study chooses them: the reward that a strategy asks, networks of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from project import Project, make, small_study

from workflow import dvc_file
from workflow.files import Files
from workflow.jobs import SAMPLE, SAMPLE_BASE
from workflow.layout import Layout

STRATEGY = {"kind": "best_of_n", "n": [2], "reward": "proxy", "apply_to": ["tuned"]}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A study with one run whose strategy asks a reward."""
    study = small_study()
    study["runs"] = {"refl-s0": {"method": "refl", "seed": 0}}
    study["sample"]["strategies"]["best"] = STRATEGY
    return make(tmp_path / "clone", study)


def test_only_who_asks_reads_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    files = Files(Layout.read("params.yaml"))
    assert files.chosen(SAMPLE, "refl-s0") == ["out/small/models/proxy.json"]
    assert files.chosen(SAMPLE_BASE, "") == []


@pytest.mark.slow
def test_a_changed_reward_reruns_who_asks_it(project: Project) -> None:
    """Under either runner, and the other one agrees."""
    assert "sample run refl-s0" in project.dvc().ran
    assert not project.snakemake().ran
    (project.root / "shipped/shapes/proxy/weights.bin").write_text("other weights")
    ran = project.dvc().ran
    assert "sample run refl-s0" in ran and "sample base" not in ran
    assert not project.snakemake().ran
    (project.root / "shipped/shapes/patch/weights.bin").write_text("other weights")
    ran = project.snakemake().ran
    assert "measure samples refl-s0" in ran and "sample run refl-s0" not in ran
    assert not project.dvc().ran


def test_networks_of_other_runs_are_waited_for() -> None:
    """DVC has one template for all runs: it waits for all of them."""
    ordinary, crossing = (yaml.safe_load(dvc_file.content(crosses))["stages"] for crosses in (False, True))
    assert "out/${study.name}/runs" in crossing["chosen"]["deps"]
    assert "out/${study.name}/runs" not in ordinary["chosen"]["deps"]
    assert {name for name in crossing if crossing[name] != ordinary[name]} == {"chosen"}


def test_a_dvc_file_of_other_jobs_is_noticed(project: Project) -> None:
    """It is written anew, and nothing runs with the old one."""
    written = project.text("dvc.yaml")
    project.append("dvc.yaml", "# edited by hand\n")
    refused = project.dvc(check=False)
    assert refused.code != 0
    assert "error: dvc.yaml: was of other jobs than this study has now" in refused.text
    assert not refused.ran
    assert project.text("dvc.yaml") == written
    assert "curate" in project.dvc("repro", "curate").ran
