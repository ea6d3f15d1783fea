"""A plain `pip install .` is enough for the three commands of the README."""

from __future__ import annotations

import tomllib

from packaging.requirements import Requirement
from project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required() -> set[str]:
    """Names of the distributions that the project depends on, without its extras."""
    return {Requirement(line).name for line in PROJECT["dependencies"]}


def test_what_the_commands_need_is_required() -> None:
    profile = (ROOT / "slurm/profile.yaml").read_text()
    executor = next(line.split(":")[1].strip() for line in profile.splitlines() if line.startswith("executor:"))
    assert {"snakemake", f"snakemake-executor-plugin-{executor}", "dvc"} <= required()


def test_programs_that_read_exported_adapters_find_peft() -> None:
    """diffusers loads the LoRA that `stages.export` writes through it."""
    assert "peft" in required()


def test_installation_by_make_takes_no_extra() -> None:
    assert "-c constraints.txt -e .\n" in (ROOT / "Makefile").read_text()
