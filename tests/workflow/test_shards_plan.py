"""`sample.shards` and `measure.shards` split a run's job into several, and change nothing else of the plan."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from project import Project, make, small_study


def planned(text: str) -> Counter[str]:
    """Jobs by rule, from the table of a dry run."""
    return Counter({rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, re.M)})


def of(jobs: Counter[str], run: str, stage: str) -> set[str]:
    """Jobs of a stage for a run."""
    return {job for job in jobs if job.startswith(f"{stage} ") and run in job.split()}


@pytest.mark.slow
def test_shards_in_the_plan(tmp_path: Path) -> None:
    project = make(tmp_path, small_study())
    one = planned(project.snakemake("--dry-run").text)
    project.edit("sample.shards", 4)
    project.edit("measure.shards", 2)
    several = project.snakemake("--dry-run").text
    more = {"sample_shard": 12, "measure_shard": 8, "measure_join": 4, "total": 20}
    assert planned(several) - one == Counter(more)
    assert one - planned(several) == Counter({"measure": 4})
    assert "--run refl-s1" in several or "refl-s1.2-of-4.parquet" in several
    first = project.snakemake().ran
    made = {f"sample run refl-s1 {number}/4" for number in range(1, 5)} | {"sample join refl-s1"}
    assert of(first, "refl-s1", "sample") == made
    for run in ("base", "refl-s1"):
        judged = {f"measure judge {run} {number}/2" for number in (1, 2)}
        assert of(first, run, "measure") == judged | {f"measure join {run}"}
    assert not list((project.root / "out/small").glob("*/parts/*.parquet"))
    (project.root / "out/small/samples/refl-s0.parquet").unlink()
    assert of(project.snakemake().ran, "refl-s0", "sample") == {job.replace("s1", "s0") for job in made}
    assert not project.snakemake().ran
    assert not project.dvc().ran
    project.edit("sample.batch_size", 7)
    again = project.snakemake("out/small/samples/refl-s0.parquet").ran
    assert again == Counter(["sample base", *(job.replace("s1", "s0") for job in made)])
    only_joined(project)
    for section in ("sample", "measure"):
        project.edit(f"{section}.shards", 0)
        refused = project.snakemake("--dry-run", check=False)
        assert refused.code != 0
        assert f"{section}.shards" in refused.text
        project.edit(f"{section}.shards", 2)


def only_joined(project: Project) -> None:
    """Both runners agree on what is built, whichever of them built it, with several jobs a run and with one."""
    assert "measure samples refl-s1" in project.dvc().ran  # one job at a time, and so one per run
    assert not project.snakemake().ran
    project.edit("measure.shards", None)
    assert project.snakemake().ran.keys() >= {"measure samples base", "measure samples refl-s0"}
    assert not project.dvc().ran
