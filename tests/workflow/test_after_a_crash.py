"""A runner and its jobs are killed in the middle of a study: what docs/studies.md tells the user to type is enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project import STAND_INS, Project, make
from test_one_at_a_time import contents, study, until

HALF = """
import time
while stage == "encode" and Path("hold.txt").exists():
    Path(flags["tensors"]).parent.mkdir(parents=True, exist_ok=True)
    Path(flags["tensors"]).write_text("half of it")
    time.sleep(0.05)
"""
"""A stage that writes in place, as foreign programs do; ours write beside and rename."""


def project_of(root: Path) -> Project:
    """The project whose `encode` leaves half a file when it is killed."""
    project = make(root, study())
    main = project.root / STAND_INS
    main.write_text(main.read_text().replace("for flag in outputs:", f"{HALF}\nfor flag in outputs:", 1))
    return project


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a study that nothing disturbed."""
    project = project_of(tmp_path_factory.mktemp("quiet") / "clone")
    project.snakemake()
    return contents(project.root / "out")


def kill_in_encode(project: Project, *command: str) -> None:
    """Run a command until `encode` has written half a file, and kill it with everything that it started."""
    (project.root / "hold.txt").write_text("")
    program = [str(Path(sys.executable).parent / command[0]), *command[1:]]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = dict(os.environ, PATH=path, PYTHONDONTWRITEBYTECODE="1", XDG_CACHE_HOME=f"{project.root}/.cache")
    with (project.root.parent / "said.txt").open("w") as said:
        process = subprocess.Popen(
            program, cwd=project.root, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        half = project.root / "out/small/encodings/encodings.safetensors"
        try:
            until(half.exists, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert half.read_text() == "half of it"
    (project.root / "hold.txt").unlink()


@pytest.mark.slow
def test_snakemake(tmp_path: Path, quiet: dict[str, bytes]) -> None:
    project = project_of(tmp_path / "clone")
    kill_in_encode(project, "snakemake", "--cores", "2")
    refused = project.snakemake(check=False)
    assert refused.code == 1
    assert "Directory cannot be locked" in refused.text
    assert not refused.ran
    project.run("snakemake", "--unlock", "--cores", "1")
    again = project.snakemake().ran
    assert {"encode", "finetune refl-s0", "report"} <= again.keys()
    assert not {"curate", "prepare import base"} & again.keys()
    assert contents(project.root / "out") == quiet
    assert not project.snakemake().ran
    assert not project.dvc().ran


@pytest.mark.slow
def test_dvc(tmp_path: Path, quiet: dict[str, bytes]) -> None:
    project = project_of(tmp_path / "clone")
    kill_in_encode(project, "dvc", "repro")
    again = project.dvc().ran
    assert {"encode", "finetune refl-s0", "report"} <= again.keys()
    assert not {"curate", "prepare import base"} & again.keys()
    assert contents(project.root / "out") == quiet
    assert not project.snakemake().ran
