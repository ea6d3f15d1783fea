"""What the page says of the steps over pairs, and that the audit counts the same."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_fixture import figures_only, folders, write_study

from stages.audit import page as audited
from stages.errors import InputError
from stages.report import data as reading
from stages.report import interactive, page, provenance, selection, settings, sources
from stages.report.settings import ReportStudy
from tests.stages.selecting import pair, put, run

STEPS = [{"kind": "majority", "by": ["r"]}, {"kind": "margin_band", "reward": "r", "low": 0.5}]
SCORES = {"r": {("a", "a cat"): 1.0, ("b", "a cat"): 0.0, ("c", "a cat"): 0.9, ("d", "a cat"): -1.0}}
ROWS = [
    pair(0, "a cat", "a", "b"), pair(1, "a cat", "b", "a"), pair(2, "a cat", "a", "c", 0.5), pair(3, "a cat", "d", "c"),
    pair(4, "a cat", "b", "d", 0.75, split="val"),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The file of a study with steps, and their manifest."""
    params = write_study(tmp_path_factory.mktemp("selection"), prompts=2, samples=2, runs=("refl-s0", "imagerefl-s0"))
    study = yaml.safe_load(params.read_text())
    study["select"] = {"steps": STEPS}
    params.write_text(yaml.safe_dump(study))
    out = folders(params).out.parent
    (out / "chosen").mkdir()
    run(out / "chosen", ROWS, SCORES, *STEPS)
    (out / "select").mkdir()
    shutil.copy(out / "chosen/out.json", out / "select/manifest.json")
    shutil.copy(out / "chosen/out.parquet", out / "select/pairs.parquet")
    return params, out / "select/manifest.json"


def test_the_table_has_every_count_of_every_step(made: tuple[Path, Path]) -> None:
    found = selection.read(settings.read(made[0]), made[1])
    assert found is not None
    rows = [[cell.text for cell in row] for row in selection.table(found).rows]
    assert rows == [
        ["curated", "–", "–", "–", "–", "–", "4"],
        ["majority", "0", "3", "2", "0", "0", "4"],
        ["margin band", "1", "0", "0", "0", "0", "3"],
    ]


def test_the_page_shows_them_and_says_where_they_come_from(made: tuple[Path, Path]) -> None:
    params, manifest = made
    study = settings.read(params)
    where = replace(folders(params), select=manifest)
    with figures_only():
        read = reading.read(study, where.measures, where.samples, where.runs)
    background = reading.background(study, where)
    known = sources.read(read, background, where)
    block = interactive.block(read, provenance.read(read, where), sources=known)
    page.write(where.out / "index.html", read, background, [], None, [], block)
    text = (where.out / "index.html").read_text()
    part = text[text.index('id="selection"') :].partition("</table>")[0]
    shown = {key: int(number) for key, number in re.findall(r'data-source="([^"]+)">(\d+)<', part)}
    assert len(shown) == 1 + 2 * len(selection.COLUMNS)
    assert {key.partition("#")[0] for key in shown} <= known.keys()
    assert known["select/2"].targets == [str(manifest)] and ("removed", "1") in known["select/2"].facts
    put(where.data, ROWS, {})
    counted = audited._selected(where.out.parent)
    assert {key: [float(number)] for key, number in shown.items()} == counted


@pytest.mark.parametrize(("place", "change"), [(0, {"removed": 1}), (1, {"removed": 0}), (1, {"left": 7})])
def test_the_audit_finds_another_count(
    made: tuple[Path, Path], tmp_path: Path, place: int, change: dict[str, Any]
) -> None:
    """Of pairs that were removed or left: what is in the tables decides."""
    for name in ("select", "data"):
        shutil.copytree(made[1].parents[1] / name, tmp_path / name)
    put(tmp_path / "data", ROWS, {})
    content = json.loads(made[1].read_text())
    content["steps"][place] |= change
    (tmp_path / "select/manifest.json").write_text(json.dumps(content))
    counted = audited._selected(tmp_path)
    wrong = [
        name for n, step in enumerate(content["steps"]) for name in ("removed", "left")
        if counted[f"select/{n + 1}#{name}"] != [step[name]]
    ]  # fmt: skip
    assert wrong


def test_a_study_without_steps_has_no_such_table(made: tuple[Path, Path]) -> None:
    study = settings.read(made[0])
    assert selection.read(study.model_copy(update={"select": None}), made[1]) is None


@pytest.mark.parametrize("content", [None, "", "[]", '{"in": 3}', '{"in": 3, "out": 1, "steps": [{"step": "x"}]}'])
def test_what_is_no_manifest_is_refused(made: tuple[Path, Path], tmp_path: Path, content: str | None) -> None:
    study: ReportStudy = settings.read(made[0])
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json"):
        selection.read(study, tmp_path / "manifest.json")
    with pytest.raises(InputError, match="--select: the study has a section `select`"):
        selection.read(study, None)
