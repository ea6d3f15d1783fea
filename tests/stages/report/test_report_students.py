"""What the page says of distilled predictors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_fixture import Silent, folders, write_study

from stages import tables
from stages.report import settings, students
from stages.report.__main__ import write_report


def write_log(path: Path, student: list[float], tweedie: list[float], accepted: float) -> None:
    terms = {"probe_accepted": accepted}
    for name, errors in (("student", student), ("tweedie", tweedie)):
        terms |= {f"probe_{name}_{i}": error for i, error in enumerate(errors)}
    rows: list[dict[str, object]] = [{"step": 0, "term": "loss", "value": 1.0}]
    rows += [{"step": 9, "term": term, "value": value} for term, value in terms.items()]
    path.parent.mkdir(parents=True)
    tables.write(path, tables.table(tables.TRAIN_LOG, rows), tables.TRAIN_LOG)


def test_a_student_is_accepted_or_not_as_its_log_says(tmp_path: Path) -> None:
    tweedie = [0.4, 0.3, 0.2, 0.1]
    write_log(tmp_path / "fine/train_log.parquet", [0.2, 0.2, 0.3, 0.2], tweedie, 1.0)
    write_log(tmp_path / "poor/train_log.parquet", [0.2, 0.35, 0.1, 0.2], tweedie, 0.0)
    other = tmp_path / "other/train_log.parquet"  # of a model that has no such test
    other.parent.mkdir()
    tables.write(other, tables.table(tables.TRAIN_LOG, [{"step": 0, "term": "loss", "value": 1.0}]), tables.TRAIN_LOG)
    fine, poor = students.read(tmp_path)
    assert (fine.name, fine.errors, fine.tweedie) == ("fine", [0.2, 0.2, 0.3, 0.2], tweedie)
    assert fine.word.startswith("fine: accepted")
    assert poor.word.startswith("poor: not accepted, nearer than Tweedie's estimate at 1 of the 2 indices")
    table = students.table([fine, poor])
    assert [cell.kind for cell in table.rows[1][1:]] == ["number up", "number", "number up", "number"]
    assert students.read(None) == []


@pytest.mark.slow
def test_the_page_has_a_section_where_there_is_one(tmp_path: Path) -> None:
    params = write_study(tmp_path, runs=("refl-s0", "imagerefl-s0"))
    root = tmp_path / "out/madeup"
    write_log(root / "encodings/student/train_log.parquet", [0.2] * 8, [0.3] * 8, 1.0)
    for predictors, said in ((None, False), (root / "encodings", True)):
        places = replace(folders(params), predictors=predictors)
        write_report(settings.read(params), places, Silent())  # type: ignore[arg-type]
        assert ("Distilled predictors" in (root / "report/index.html").read_text()) is said
