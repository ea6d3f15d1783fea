"""What the doctor says of tables of comparisons before the first job: one line, whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.stages.curating import photos, png, write_table
from workflow.doctor import pairs
from workflow.doctor.finding import Finding

PROMPTS = {part: {"kind": "shapes", "part": part} for part in ("train", "eval")}


def said(path: str, kinds: Sequence[str] = ("diffusion_dpo",), **source: Any) -> Finding:
    """The finding about one table, in a study with these methods."""
    table = {"kind": "file", "path": path, **source}
    methods = {kind: {"kind": kind} for kind in kinds}
    (found,) = pairs.look({"curate": {"pairs": table, "prompts": PROMPTS}, "methods": methods})
    assert found.what == "pairs" and "\n" not in found.found
    return found


def table(path: Path, preferences: Sequence[Any], **more: Sequence[Any]) -> str:
    """Pairs that hold their images, with these preferences."""
    columns = {"prompt": "a cat", "image_a": png(1), "image_b": png(2)}
    rows = [
        {**columns, "preference": value, **{key: values[n] for key, values in more.items()}}
        for n, value in enumerate(preferences)
    ]
    return write_table(path, rows)


def test_a_sound_table_is_counted(tmp_path: Path) -> None:
    path = table(tmp_path / "p.parquet", [1.0, 0.0, 0.7], rater=["x", "x", "y"])
    assert said(path) == Finding("ok", "pairs", f"{path}: 3 pairs")


def test_ties_and_annotators_with_one_pair_are_counted(tmp_path: Path) -> None:
    path = table(tmp_path / "p.parquet", [1.0, 0.5, None, 0.5], rater=["x", "x", "y", "z"])
    counts = "4 pairs, 2 ties, 1 without a judgement, 3 annotators, 2 of them with one pair"
    assert said(path, annotator="rater") == Finding("note", "pairs", f"{path}: {counts}")


def test_ties_alone_teach_those_who_leave_them_out_nothing(tmp_path: Path) -> None:
    path = table(tmp_path / "p.parquet", [0.5, 0.5])
    found = said(path, ["diffusion_dpo", "diffusion_kto", "balanced_dpo"])
    assert found.mark == "missing"
    assert found.found.endswith("nothing to learn for diffusion_dpo, diffusion_kto, expected a preference")
    assert said(path, ["balanced_dpo"]).mark == "note"


@pytest.mark.parametrize(
    "cell, why", [(2.0, "'preference' is 2, expected 0"), ("left", "'preference' is str 'left', expected 0")]
)
def test_a_judgement_that_is_none(cell: Any, why: str, tmp_path: Path) -> None:
    found = said(table(tmp_path / "p.parquet", [cell]))
    assert found.mark == "missing" and why in found.found


def test_pairs_without_images(tmp_path: Path) -> None:
    rows = {"prompt": ["a cat"], "image_a": pa.nulls(1, pa.binary()), "image_b": [png(1)], "preference": [1.0]}
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    found = said(str(tmp_path / "p.parquet"))
    assert found.mark == "missing"
    assert found.found.endswith("p.parquet: column 'image_a' is empty, expected the images of pairs")


def test_an_image_that_is_in_no_source(tmp_path: Path) -> None:
    photos(tmp_path / "compared", captions=False)
    row = {"prompt": "a cat", "image_a": "cat.png", "image_b": "dog.png", "preference": 1}
    sound = write_table(tmp_path / "sound.csv", [row])
    assert said(sound, folder=str(tmp_path / "compared")).mark == "ok"
    for name, why in (("gone.png", "no image"), ("", "is empty, expected an image")):
        path = write_table(tmp_path / "p.csv", [row, row | {"image_b": name}])
        found = said(path, folder=str(tmp_path / "compared"))
        assert found.mark == "missing" and why in found.found and "p.csv" in found.found


def test_a_study_that_learns_from_no_pairs_is_not_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.parquet")
    study = {
        "curate": {"pairs": {"kind": "file", "path": path}, "prompts": PROMPTS},
        "methods": {"r": {"kind": "refl"}},
    }
    assert list(pairs.look(study)) == []
