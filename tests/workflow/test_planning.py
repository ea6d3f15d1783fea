"""Planning is quick and loads no machine learning; neither does a stage's `--help`."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, STAGES, make, small_study

PLAN = """
import sys
sys.argv = ["snakemake", "--cores", "all", "-n", "--quiet", "all"]
from snakemake.cli import main
try:
    main()
finally:
    print("loaded:", *sorted({"torch", "diffusers", "mlflow", "stages.study"} & set(sys.modules)))
"""

HELP = """
import runpy, sys
for stage in sys.argv[1:]:
    sys.argv = [stage, "--help"]
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__")
    except SystemExit as end:
        assert not end.code, stage
    assert "torch" not in sys.modules, f"{stage} --help loads torch"
"""


def python(program: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program text with this interpreter."""
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which nothing is built."""
    return make(tmp_path_factory.mktemp("plan"), small_study()).root


def test_planning_takes_seconds_and_loads_no_torch(root: Path) -> None:
    """Processor time, as other work on this machine must not decide; the wall clock shows the same when it is idle."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python(PLAN, cwd=root)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: stages.study"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20  # 1.5 where nothing else runs
    assert not (root / "out").exists()


def test_help_of_every_stage_loads_no_torch() -> None:
    done = python(HELP, *STAGES, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_single_target_in_a_fresh_clone(tmp_path: Path) -> None:
    """Its jobs' stamps are written while Snakemake already plans."""
    project = make(tmp_path, small_study())
    planned = project.snakemake("--dry-run", "out/small/samples/refl-s0.parquet").text
    assert "rule sample:" in planned
    assert "rule report:" not in planned
