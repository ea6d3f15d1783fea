"""The benchmark of rows: what it makes is what the stages read, as many rows as it says, and it runs the stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import rows
from stages import tables


def test_images_are_those_of_every_setting_and_prompt(tmp_path: Path) -> None:
    made, _ = rows.images(1000, tmp_path)
    found = tables.read(tmp_path / "samples.parquet", tables.SAMPLES).to_pylist()
    assert made == len(found) == 1000
    assert len({(row["setting"], row["prompt_id"], row["sample"]) for row in found}) == 1000
    assert {(row["prompt_id"], row["prompt"]) for row in found} == {
        (f"eval-{n:06d}", f"a picture of number {n}") for n in range(10)
    }


def test_measures_are_as_many_as_stated(tmp_path: Path) -> None:
    settings = [("tuned", "tuned", 0.0), ("combined", "k=4", 4.0)]
    count = rows.write_measures(tmp_path, "refl-s1", settings, 6, np.random.default_rng(0))
    found = tables.read(tmp_path / "refl-s1.parquet", tables.MEASURES).to_pandas()
    assert count == len(found) == 2 * 6 * (2 * rows.SAMPLES + 1)
    assert set(found["train_seed"]) == {1} and set(found["method"]) == {"refl"}
    assert not found.duplicated(["setting", "metric", "prompt_id", "sample"]).any()


@pytest.mark.slow
@pytest.mark.parametrize(("what", "size"), [("measure", 400), ("report", 1200), ("sets", 200)])
def test_the_stages_run(what: str, size: int, tmp_path: Path) -> None:
    cost = rows.measure(what, size, tmp_path)
    assert 0 < cost.rows <= 1.1 * size
    assert cost.memory_mb > 50 and cost.cpu_seconds > 0.1
    if what == "measure":
        assert tables.read(tmp_path / "measures", tables.MEASURES).num_rows == cost.rows
    if what == "report":
        assert (tmp_path / "out/metrics.json").exists()
