"""`make` hands the name of a study on as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from project import ROOT

HANDED_ON = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS", "STUDY", "QUICK", "PYTHON")
SAYS = '#!/bin/sh\nfor word in "$@"; do printf "<%s>" "$word"; done\necho\n'


@pytest.mark.parametrize(
    "study", ["my st/a b.yaml", "it's $(touch pwned).yaml", 'a "quoted" & b;c.yaml', "params.yaml"]
)
@pytest.mark.parametrize("goal", ["study", "doctor", "estimate"])
def test_any_file_name(tmp_path: Path, study: str, goal: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("snakemake", "python"):
        (programs / name).write_text(SAYS)
        (programs / name).chmod(0o755)
    for made in ("pyproject.toml", "constraints.txt", ".venv/.study"):  # the last is newest: nothing to install
        (tmp_path / made).touch()
    given = study.replace("$", "$$")  # as make itself wants it
    done = subprocess.run(["make", goal, f"STUDY={given}"], cwd=tmp_path, env=outside(), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    if goal == "study":
        chosen = "" if study == "params.yaml" else f"<--config><study={study}>"
        assert said == [f"<--cores><all>{chosen}", f"<-m><workflow.layout><{study}>"]
    else:
        assert said == [f"<-m><workflow.{goal}><{study}>"]
    assert not (tmp_path / "pwned").exists()


def outside() -> dict[str, str]:
    """The environment without what a `make` around the tests hands on to those below it."""
    return {name: value for name, value in os.environ.items() if name not in HANDED_ON}


def test_every_goal_stands_once() -> None:
    """A second recipe for a goal replaces the first."""
    done = subprocess.run(["make", "help"], cwd=ROOT, env=outside(), text=True, capture_output=True)
    assert done.stderr == ""
    goals = [line.split("\t")[0].split()[1] for line in done.stdout.splitlines()]
    assert len(goals) == len(set(goals))
    assert {"study", "test", "slurm-test", "audit"} <= set(goals)
