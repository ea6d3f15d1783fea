"""`sample.shards` splits the sampling of every run into jobs, and changes nothing else of the plan."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from project import make, small_study


def planned(text: str) -> Counter[str]:
    """Jobs by rule, from the table of a dry run."""
    return Counter({rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, re.M)})


def test_shards_in_the_plan(tmp_path: Path) -> None:
    project = make(tmp_path, small_study())
    one = planned(project.snakemake("--dry-run").text)
    project.edit("sample.shards", 4)
    several = project.snakemake("--dry-run").text
    assert planned(several) - one == Counter({"sample_shard": 12, "total": 12})
    assert "--run refl-s1" in several or "refl-s1.2-of-4.parquet" in several
    project.edit("sample.shards", 0)
    refused = project.snakemake("--dry-run", check=False)
    assert refused.code != 0
    assert "sample.shards" in refused.text
