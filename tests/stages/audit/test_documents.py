"""The numbers of the documentation are those of the kept results; a false one is named."""

from __future__ import annotations

import ast
import csv
import re
import shutil
from pathlib import Path

import pytest

import stages.audit
from stages.audit.__main__ import Audit
from stages.audit.documents import documents

ROOT = Path(__file__).parents[3]
QUOTES = ROOT / "docs" / "results" / "quotes.csv"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "name",
    [
        "emoji",
        "emoji-coarse",
        "emoji-fine",
        "emoji-search",
        "shapes-online",
        "shapes-rl",
        pytest.param("shapes-claims", marks=pytest.mark.slow),
    ],
)
def test_the_numbers_of_the_documentation_are_those_of_the_results(name: str, capsys: pytest.CaptureFixture[str]):
    found = Audit()
    documents(found, Path("docs/results") / name, QUOTES)
    assert capsys.readouterr().out == ""
    assert found.wrong == 0 and found.count > 200


@pytest.mark.parametrize(
    "place, written, false, named",
    [
        ("README.md", "| base, g=1 | 5.827 |", "| base, g=1 | 5.872 |", "base, g=1"),
        ("README.md", "6.4", "6.5", "README.md"),
        ("quotes.csv", "| base | 5.83 |", "| base | 5.84 |", "docs/reproduction.md"),
    ],
)
def test_a_false_number_is_named(
    place: str, written: str, false: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kept = tmp_path / "shapes-online"
    shutil.copytree("docs/results/shapes-online", kept, ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(QUOTES, tmp_path / "quotes.csv")
    path = kept / place if place == "README.md" else tmp_path / place
    text = path.read_text(encoding="utf-8")
    assert written in text
    path.write_text(text.replace(written, false, 1), encoding="utf-8")
    found = Audit()
    documents(found, kept, tmp_path / "quotes.csv")
    assert found.wrong >= 1
    assert named in capsys.readouterr().out


def test_quotes_stand_in_their_documents():
    with open(QUOTES, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 25
    for row in rows:
        whole = " ".join(Path(row["document"]).read_text(encoding="utf-8").split())
        assert row["text"] in whole, row["text"]


def test_the_audit_shares_no_code_with_what_it_checks():
    for path in Path(stages.audit.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if re.match(r"stages\.(measure|report)\b", name)], path
