"""Two studies in one clone one after the other, and two Snakemakes at once, the second of which is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import STAND_INS, make, small_study

PATIENCE = 60.0
"""Seconds to wait for another process, on a machine that has other work to do."""
WAIT = """
import time
while stage == "encode" and Path("hold.txt").exists():
    time.sleep(0.05)
"""


def study(name: str = "small") -> dict[str, Any]:
    """The small study with a single run."""
    content = small_study()
    content["study"]["name"] = name
    content["runs"] = {"refl-s0": {"method": "refl", "seed": 0}}
    return content


def contents(folder: Path) -> dict[str, bytes]:
    """Every result below a folder; not what the runners note about jobs."""
    notes = {".state", "plan", "chosen"}
    files = [file for file in folder.rglob("*") if file.is_file() and not notes & set(file.relative_to(folder).parts)]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_two_studies_one_after_the_other(tmp_path: Path) -> None:
    project = make(tmp_path / "both", study())
    other = study("other")
    other["study"]["seed"] = 5
    other["finetune"]["steps"] = 7
    project.write(other, "studies/other.yaml")
    first, second, asked = project.root / "out/small", project.root / "out/other", "study=studies/other.yaml"

    jobs = project.snakemake().ran
    small = contents(first)
    assert project.snakemake("--config", asked).ran == jobs
    assert contents(first) == small
    mixed = contents(second)
    assert mixed.keys() == small.keys()
    same = {name for name in small if small[name] == mixed[name]}
    assert {"data/prompts.parquet", "models/base.json", "encodings/index.parquet", "scores/proxy.json"} <= same
    assert not same & {"runs/refl-s0/policy.safetensors", "samples/base.parquet", "report/metrics.json"}

    project.edit("encode.batch_size", 7)  # of the active study alone
    assert not project.snakemake("--config", asked).ran
    assert "encode" in project.snakemake().ran
    assert contents(second) == mixed

    kept = project.text("params.yaml")
    small = contents(first)
    shutil.copy(project.root / "studies/other.yaml", project.root / "params.yaml")
    assert "encode" in project.dvc("repro", "encode").ran  # dvc.lock knows the other study
    assert contents(first) == small
    assert contents(second) == mixed
    (project.root / "params.yaml").write_text(kept)
    assert not project.dvc("repro", "encode").ran
    assert contents(first) == small


@pytest.mark.slow
def test_a_second_snakemake_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    """Though the study was edited meanwhile: what is being made with the old settings must not pass for current."""
    project = make(tmp_path, study())
    before = project.read()["encode"]["batch_size"]
    main = project.root / STAND_INS
    main.write_text(main.read_text().replace("for flag in outputs:", f"{WAIT}\nfor flag in outputs:", 1))
    hold = project.root / "hold.txt"
    hold.write_text("")
    program = [str(Path(sys.executable).parent / "snakemake"), "--cores", "2"]
    with (tmp_path / "first.txt").open("w") as said:
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", XDG_CACHE_HOME=str(project.root / ".cache"))
        first = subprocess.Popen(program, cwd=project.root, env=environment, stdout=said, stderr=subprocess.STDOUT)
    try:
        log = project.root / "ran.txt"
        until(lambda: log.exists() and "encode\n" in log.read_text(), first)
        project.edit("encode.batch_size", before + 1)
        planned = [subprocess.run([*program, *more], cwd=project.root, env=environment, text=True, capture_output=True)
                   for more in ((), ("--dry-run",))]  # fmt: skip
        assert [done.returncode for done in planned] == [1, 0], planned
        assert "Directory cannot be locked" in planned[0].stderr
        assert "Traceback" not in planned[0].stderr
    finally:
        hold.unlink()
        code = first.wait(PATIENCE)
    assert code == 0, (tmp_path / "first.txt").read_text()
    jobs = log.read_text().splitlines()
    assert len(jobs) == len(set(jobs)), "a job ran twice"
    again = project.snakemake().ran
    assert {"encode", "finetune refl-s0", "report"} <= again.keys(), "the edit was lost"
    assert not {"curate", "prepare import base"} & again.keys()


def until(there: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait for something that a process does."""
    end = time.monotonic() + PATIENCE
    while not there():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"still waiting; exit code {process.poll()}")
        time.sleep(0.05)
