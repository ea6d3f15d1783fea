"""`sample.shards` splits the sampling of every run into jobs, and changes nothing else of the plan."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from project import make, small_study


def planned(text: str) -> Counter[str]:
    """Jobs by rule, from the table of a dry run."""
    return Counter({rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, re.M)})


@pytest.mark.slow
def test_shards_in_the_plan(tmp_path: Path) -> None:
    project = make(tmp_path, small_study())
    one = planned(project.snakemake("--dry-run").text)
    project.edit("sample.shards", 4)
    several = project.snakemake("--dry-run").text
    assert planned(several) - one == Counter({"sample_shard": 12, "total": 12})
    assert "--run refl-s1" in several or "refl-s1.2-of-4.parquet" in several
    first = project.snakemake().ran
    made = {f"sample run refl-s1 {number}/4" for number in range(1, 5)} | {"sample join refl-s1"}
    assert {job for job in first if "refl-s1" in job and job.startswith("sample")} == made
    assert not list((project.root / "out/small/samples").glob("parts/*.parquet"))
    assert not project.snakemake().ran
    assert not project.dvc().ran
    project.edit("sample.batch_size", 7)
    again = project.snakemake("out/small/samples/refl-s0.parquet").ran
    assert again == Counter(["sample base", *(job.replace("s1", "s0") for job in made)])
    project.edit("sample.shards", 0)
    refused = project.snakemake("--dry-run", check=False)
    assert refused.code != 0
    assert "sample.shards" in refused.text
