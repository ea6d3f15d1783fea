"""An output that is missing is made again by the plain command, whatever was made from it, under either runner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project import STAND_INS, Project, make
from test_one_at_a_time import study, until

HOLD = """
import time
while stage == "finetune" and Path("hold.txt").exists():
    time.sleep(0.05)
"""
OTHER = ("--config", "study=studies/other.yaml")
"""A study beside the active one, of which DVC knows nothing."""
AFTER_TRAINING = {"finetune refl-s0", "sample run refl-s0", "measure samples refl-s0", "report"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished study called `other`; every test leaves it finished."""
    made = make(tmp_path_factory.mktemp("missing") / "clone", study())
    main = made.root / STAND_INS
    main.write_text(main.read_text().replace("for flag in outputs:", f"{HOLD}\nfor flag in outputs:", 1))
    made.write(study("other"), "studies/other.yaml")
    made.snakemake(*OTHER)
    return made


def test_training_is_missing_and_its_images_are_there(project: Project) -> None:
    (project.root / "out/other/runs/refl-s0/policy.safetensors").unlink()
    assert project.snakemake(*OTHER).ran.keys() == AFTER_TRAINING
    assert not project.snakemake(*OTHER).ran


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("measures/base.summary.parquet", {"measure samples base", "report"}),
        ("models/proxy.json", {"prepare import proxy", "score proxy", "measure reference"} | AFTER_TRAINING),
        ("report/plots/training.csv", {"report"}),
        ("data/manifest.json", {"curate"}),
    ],
)
def test_any_other_output(project: Project, file: str, expected: set[str]) -> None:
    (project.root / "out/other" / file).unlink()
    assert project.snakemake(*OTHER).ran.keys() >= expected
    assert (project.root / "out/other" / file).exists()
    assert not project.snakemake(*OTHER).ran


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_training_once_more_is_stopped(project: Project, stop: int) -> None:
    """`-R finetune --until finetune` takes the old policy away before the new one is there."""
    hold, ran = project.root / "hold.txt", project.root / "ran.txt"
    hold.write_text("")
    ran.unlink(missing_ok=True)
    program = [str(Path(sys.executable).parent / "snakemake"), "--cores", "2", *OTHER]
    command = [*program, "-R", "finetune", "--until", "finetune"]
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", XDG_CACHE_HOME=str(project.root / ".cache"))
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (project.root.parent / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, cwd=project.root, env=environment, stdout=said, stderr=said, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
        )  # fmt: skip
        try:
            until(lambda: ran.exists() and "finetune" in ran.read_text(), process)
        finally:
            os.killpg(process.pid, stop)
            process.wait(60)
    hold.unlink()
    assert not (project.root / "out/other/runs/refl-s0/policy.safetensors").exists()
    if stop == signal.SIGKILL:
        project.run("snakemake", "--unlock", "--cores", "1", *OTHER)
    assert project.snakemake(*OTHER).ran.keys() == AFTER_TRAINING


@pytest.mark.slow
def test_under_dvc(project: Project) -> None:
    """DVC takes what is missing from its cache, and makes what is not there either."""
    project.dvc()
    policy = project.root / "out/small/runs/refl-s0/policy.safetensors"
    before = policy.read_bytes()
    policy.unlink()
    assert not project.dvc().ran
    assert policy.read_bytes() == before
    policy.unlink()
    shutil.rmtree(project.root / ".dvc/cache")
    assert "finetune refl-s0" in project.dvc().ran
    assert policy.read_bytes() == before
    policy.unlink()
    assert "finetune refl-s0" in project.snakemake().ran
