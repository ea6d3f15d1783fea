"""docs/benchmarks.md says what benchmarks/results holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.page import page

ROOT = Path(__file__).parents[2]


def test_page_and_results_agree():
    assert (ROOT / "docs/benchmarks.md").read_text() == page(ROOT / "benchmarks/results")


def test_the_page_follows_its_results(tmp_path: Path):
    content = json.loads((ROOT / "benchmarks/results/studies.json").read_text())
    (tmp_path / "studies.json").write_text(json.dumps(content))
    before = page(tmp_path)
    job = max(content["studies"][0]["jobs"], key=lambda job: job["seconds"])
    job["seconds"] += 1000
    (tmp_path / "studies.json").write_text(json.dumps(content))
    assert page(tmp_path) != before
    assert f"{job['seconds']:.0f} s" in page(tmp_path)


def test_faults_that_no_test_noticed_are_named(tmp_path: Path):
    rows = [{"file": f"{n}.py", "old": "a + b", "new": "a - b", "noticed": n > 0} for n in range(3)]
    (tmp_path / "mutants.json").write_text(json.dumps({"listed": 4, "faults": rows}))
    found = page(tmp_path)
    assert "**2 of 3** were noticed, 66 %" in found and "1 were not tried" in found
    assert "- `0.py`: `a + b` became `a - b`" in found and "`1.py`" not in found


def test_a_result_without_a_section_is_refused(tmp_path: Path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(KeyError, match=r"no section of the page for other\.json"):
        page(tmp_path)
