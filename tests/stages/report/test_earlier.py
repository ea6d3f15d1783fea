"""A report beside an earlier one of the same study: every number of both, and nothing across evaluations."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_fixture import arguments, figures_only, folders, write_study

from stages.audit import page as audited
from stages.audit.__main__ import Audit
from stages.errors import InputError
from stages.report import __main__ as report
from stages.report import data as reading
from stages.report import earlier, earlier_page, figure, files, interactive, page, provenance, settings, style
from stages.report.data import ReportData
from stages.report.provenance import Provenance
from stages.report.screenshots import chromium

RUNS = ("refl-s0", "imagerefl-s0")
CHANGED = "refl/tuned/tuned/proxy"
BY = 0.125


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("now"), prompts=4, samples=2, runs=RUNS)


@pytest.fixture(scope="module")
def found(params: Path) -> tuple[ReportData, Provenance]:
    where = folders(params)
    read = reading.read(settings.read(params), where.measures, where.samples, where.runs)
    return read, provenance.read(read, where)


@pytest.fixture(scope="module")
def before(found: tuple[ReportData, Provenance], params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an earlier report in which one number was lower, one was missing and one stood that is gone."""
    folder = tmp_path_factory.mktemp("before")
    read, origin = found
    page.write(folder / "index.html", read, reading.background(read.study, folders(params)), [], None, [],
               interactive.block(read, origin))  # fmt: skip
    rewrite(folder, folder, numbers)
    return folder


def numbers(block: dict[str, Any]) -> None:
    key, mean = block["columns"].index("key"), block["columns"].index("mean")
    row = next(row for row in block["findings"] if row[key] == CHANGED)
    row[mean] -= BY
    block["findings"] = [row for row in block["findings"] if row[key] != "base/guidance/guidance=1/proxy"]
    block["findings"].append([*row[:key], "gone/tuned/tuned/proxy", *row[key + 1 :]])


def rewrite(source: Path, target: Path, change: Any) -> None:
    """The page in `source` with its block changed, in `target`."""
    text = (source / "index.html").read_text()
    held = earlier_page.BLOCK.search(text)
    assert held
    block = json.loads(held[1])
    change(block)
    (target / "index.html").write_text(text.replace(held[1], json.dumps(block).replace("<", "\\u003c")))


def test_every_number_of_both_stands_in_the_table(found: tuple[ReportData, Provenance], before: Path) -> None:
    read, origin = found
    past = earlier.read(before, "madeup", origin)
    rows = {row["number"]: row for row in earlier.rows(read, past)}
    finite = [one for one in read.findings.rows if one.mean == one.mean]
    assert set(rows) == {one.key for one in finite} - {"base/guidance/guidance=1/proxy"}
    assert float(rows[CHANGED]["difference"]) == pytest.approx(BY)  # type: ignore[arg-type]
    assert {row["difference"] for key, row in rows.items() if key != CHANGED} == {0.0}
    assert next(iter(rows)) == CHANGED  # largest first
    since = earlier.since(read, past)
    assert f"Of {len(rows)} numbers" in since.words
    assert "1 differ. 1 are new, and 1 of its numbers are not here" in since.words
    assert len(since.first.rows) == 1
    assert not since.rest.rows
    assert since.first.rows[0][4].kind == "up"


def test_the_page_shows_the_change_and_the_dialog_knows_it(
    params: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*arguments(params), "--against", str(before)]
    given[given.index("--out") + 1] = str(tmp_path / "report")
    monkeypatch.setattr("sys.argv", ["report", *given])
    with figures_only("frontier"):
        report.main()
    text = (tmp_path / "report/index.html").read_text()
    assert '<section id="earlier">' in text
    with open(tmp_path / "report" / figure.EARLIER_TABLE, newline="") as file:
        assert next(csv.DictReader(file))["difference"] == "0.125"
    if chromium() is None:
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        opened.goto(f"file://{tmp_path / 'report/index.html'}")
        opened.locator(f'[data-number="{CHANGED}"] button').first.click()
        assert "difference to it" in opened.locator("#x-origin").inner_text()
        assert "0.125" in opened.locator("#x-origin").inner_text()
        opened.keyboard.press("Escape")
        for part in ("was", "mean", "grown"):
            opened.locator(f'#earlier [data-number="{CHANGED}#{part}"] button').click()
            assert "difference to it" in opened.locator("#x-origin").inner_text()
            opened.keyboard.press("Escape")
        browser.close()


@pytest.mark.parametrize("fault", ["", "was", "mean", "grown", "table"])
def test_the_audit_reads_the_changes(
    fault: str, found: tuple[ReportData, Provenance], before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, origin = found
    past = earlier.read(before, "madeup", origin)
    since = earlier.since(read, past)
    cells = {cell.number.partition("#")[2]: cell for cell in since.first.rows[0] if cell.number}
    text = {part: cell.text if part != fault else style.number(7.5, 2) for part, cell in cells.items()}
    written = "".join(f'<td data-number="{CHANGED}#{part}">{one}</td>' for part, one in text.items())
    (tmp_path / "index.html").write_text(written)
    rows = earlier.rows(read, past)
    rows[3]["difference"] = float(str(rows[3]["difference"])) + 0.01 * (fault == "table")
    files.write_csv(tmp_path / "against.csv", rows)
    audit, own = Audit(), {one.key: {"mean": one.mean, "low": one.low, "high": one.high} for one in read.findings.rows}
    audited.cells(audit, tmp_path / "index.html", own)
    assert audit.count == 2 * len(rows) + 3
    assert audit.wrong == bool(fault), capsys.readouterr().out
    assert ("against.csv" if fault == "table" else f"page: {CHANGED}" if fault else "") in capsys.readouterr().out


def test_a_report_without_an_earlier_one_says_nothing_of_it(before: Path) -> None:
    assert 'id="earlier"' not in (before / "index.html").read_text()


def test_another_evaluation_is_refused_with_the_setting_that_differs(
    found: tuple[ReportData, Provenance], before: Path, tmp_path: Path
) -> None:
    _, origin = found
    specification = {**origin.specification, "samples": 9}
    facts = [(name, "0123456789ab" if name == "evaluation id" else value) for name, value in origin.facts]
    other = dataclasses.replace(origin, specification=specification, facts=facts)
    with pytest.raises(InputError, match=r"--against: .*: .* is 2 there, but 9 here; expected a report of the same"):
        earlier.read(before, "madeup", other)

    def old(block: dict[str, Any]) -> None:
        del block["provenance"]["specification"]

    rewrite(before, tmp_path, old)
    with pytest.raises(InputError, match="here 0123456789ab; expected a report of the same one"):
        earlier.read(tmp_path, "madeup", other)
    assert earlier.read(tmp_path, "madeup", origin).values  # the same id is the same evaluation


def test_what_is_no_report_of_this_study_is_refused(
    found: tuple[ReportData, Provenance], before: Path, tmp_path: Path
) -> None:
    origin = found[1]
    with pytest.raises(InputError, match="a report of the study 'madeup', expected one of 'other'"):
        earlier.read(before, "other", origin)
    with pytest.raises(InputError, match="No such file or directory; expected the folder of an earlier report"):
        earlier.read(tmp_path, "madeup", origin)
    shutil.copy(__file__, tmp_path / "index.html")
    with pytest.raises(InputError, match="no page of a study with its numbers in it"):
        earlier.read(tmp_path, "madeup", origin)
