"""Results that are not there, or not those of the study: the audit says which file in one line, with exit code 2."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages.audit import __main__ as audit
from stages.audit.reading import complete, query, read, read_csv, read_json
from stages.errors import InputError
from stages.runtime import run_stage

STUDY = {name: {} for name in ("methods", "runs", "score", "sample", "measure", "report")} | {"study": {"name": "x"}}


def audited(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said where exit code 2 is expected."""
    monkeypatch.setattr(sys, "argv", ["audit", *words])
    with pytest.raises(SystemExit) as ended:
        run_stage(audit.main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "section, words, message",
    [
        ("", [], "error: out/x/measures/base.parquet: no such file; expected the results of a finished study"),
        ("", ["--study", "nowhere"], "error: nowhere/measures/base.parquet: no such file"),
        ("", ["--study", "s.yaml"], "error: s.yaml/measures/base.parquet: "),
        ("runs", [], "error: s.yaml: runs: expected a section of a study"),
        ("measure", [], "error: s.yaml: measure: expected a section of a study"),
    ],
)
def test_a_study_without_results(
    section: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(yaml.safe_dump({key: value for key, value in STUDY.items() if key != section}))
    said = audited(["--params", "s.yaml", *words], capsys, monkeypatch)
    assert said.startswith(message)


READERS: dict[str, Callable[[Path], object]] = {
    "a.parquet": read, "a.csv": read_csv, "a.json": read_json, "a.db": lambda file: query(file, "select 1 from runs"),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"", b'"{\xff\xfe\n\n1,2\n"', None])
def test_a_file_that_cannot_be_read(name: str, content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / name
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: cannot be read: ") as refused:
        READERS[name](file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_json_that_is_no_object(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: cannot be read: expected a JSON object"):
        read_json(tmp_path / "a.json")


def test_sound_files_are_read(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [1, 2]})
    rows.to_parquet(tmp_path / "a.parquet")
    rows.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.json").write_text('{"a": 1}')
    with sqlite3.connect(tmp_path / "a.db") as opened:
        opened.execute("create table runs (a)")
        opened.execute("insert into runs values (3)")
    assert len(read(tmp_path / "a.parquet", tmp_path / "a.parquet")) == 4
    assert read_csv(tmp_path / "a.csv")["a"].tolist() == [1, 2]
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert query(tmp_path / "a.db", "select a from runs where a = ?", 3) == [(3,)]


def test_results_that_lack_a_metric() -> None:
    with pytest.raises(InputError, match="out/x: nothing of 'refl tuned proxy' here, though"), complete(Path("out/x")):
        dict[tuple[str, ...], float]()["refl", "tuned", "proxy"]


def test_kept_results_are_found_below_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As documented: `docs/results` holds folders with scores of prompts, others without, and files."""
    seen: list[str] = []
    monkeypatch.setattr(audit, "documents", lambda found, folder, quotes: seen.append(folder.name))
    for name in ("two", "one"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.parquet").touch()
    (tmp_path / "figures_only").mkdir()
    (tmp_path / "quotes.csv").touch()
    for given, wanted in ((tmp_path, ["one", "two"]), (tmp_path / "two", ["two"])):
        seen.clear()
        monkeypatch.setattr(sys, "argv", ["audit", "--results", str(given)])
        with pytest.raises(SystemExit) as ended:
            audit.main()
        assert ended.value.code == 0
        assert seen == wanted
    monkeypatch.undo()
    said = audited(["--results", str(tmp_path / "figures_only")], capsys, monkeypatch)
    assert said.startswith("error: studies/figures_only.yaml: no such study file")
