"""The numbers of the documentation are those of the kept results; a false one is named."""

from __future__ import annotations

import ast
import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stages.audit
from stages.audit.__main__ import Audit
from stages.audit.documents import _key_and_field, documents, ends_of_training
from stages.audit.statistics import Study, setting
from stages.params import read_study

ROOT = Path(__file__).parents[3]
QUOTES = ROOT / "docs" / "results" / "quotes.csv"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "name",
    [
        "emoji",
        "emoji-preference",
        "emoji-search",
        "shapes-few",
        "shapes-gradient",
        "shapes-guided",
        "shapes-noise",
        "shapes-online",
        "shapes-parts",
        "shapes-personal",
        "shapes-preference",
        "shapes-rl",
        "shapes-search",
        "shapes-steps",
        pytest.param("emoji-coarse", marks=pytest.mark.slow),
        pytest.param("emoji-fine", marks=pytest.mark.slow),
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


def test_the_end_of_training_is_the_mean_over_the_last_fifth(tmp_path: Path):
    rows = [("one", step, "margin", float(step)) for step in range(1, 11)] + [("two", 4, "margin", 7.0)]
    pd.DataFrame(rows, columns=["run", "step", "term", "value"]).to_parquet(tmp_path / "training.parquet")
    assert ends_of_training(tmp_path) == {("one", "margin"): 9.0, ("two", "margin"): 7.0}


def test_a_quote_of_a_training_log_is_recomputed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kept = tmp_path / "shapes-online"
    shutil.copytree("docs/results/shapes-online", kept, ignore=shutil.ignore_patterns("*.png"))
    run, end = next((run, end) for (run, term), end in ends_of_training(kept).items() if term == "reward")
    page = tmp_path / "page.md"
    quotes = tmp_path / "quotes.csv"
    for value, wrong in ((end, 0), (end + 0.01, 1)):
        page.write_text(f"it ends at {value:.3f}")
        row = f'{page},shapes-online,"ends at {value:.3f}",training/{run}/reward.end'
        quotes.write_text(f"document,results,text,numbers\n{row}\n")
        found = Audit()
        documents(found, kept, quotes)
        assert found.wrong == wrong, capsys.readouterr().out


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [
        ("difference/base:guidance:g=2/base:guidance:g=1/oracle", 0),
        ("difference/base:guidance:g=1/base:guidance:g=2/oracle", 1),
        ("difference/base:guidance:g=2/base:guidance:g=4/oracle", 1),
        ("difference/base:guidance:g=2/base:guidance:g=1/no_metric", 1),
    ],
    ids=["the difference of two settings", "turned round", "a setting that is not there", "a metric that is not there"],
)
def test_a_quote_of_the_difference_of_two_points_is_recomputed(
    numbers: str, wrong: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """By pandas: the mean over prompts of one less that of the other; the interval stands around it."""
    kept = Path("docs/results/shapes-guided")
    rows = pd.read_parquet(kept / "scores.parquet")
    own = Study(read_study("studies/shapes-guided.yaml"), rows)
    found = own.difference(("base", "guidance", "g=2"), ("base", "guidance", "g=1"), "oracle")
    means = {scale: np.nanmean(own.scores["base", "guidance", f"g={scale}", "oracle"]) for scale in (1, 2)}
    assert found["mean"] == pytest.approx(means[2] - means[1])
    assert found["low"] < found["mean"] < found["high"]
    text = f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"
    (tmp_path / "page.md").write_text(text)
    quotes = tmp_path / "quotes.csv"
    quotes.write_text(f'document,results,text,numbers\n{tmp_path / "page.md"},shapes-guided,"{text}",{numbers}\n')
    audit = Audit()
    documents(audit, kept, quotes)
    assert audit.wrong == wrong, capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "place", "value"),
    [("k=10", 3.0, 10.0), ("w=0.5", 1.0, 0.5), ("tuned", 2.0, 0.0), ("annotator=ann", 2.0, 2.0)],
)
def test_a_setting_is_its_number_or_where_it_is_a_name_its_place(written: str, place: float, value: float):
    assert setting(("ppd", "whose", written), place) == value


def test_a_difference_turned_round_changes_its_sign_alone():
    kept = Path("docs/results/shapes-preference")
    own = Study(read_study("studies/shapes-preference.yaml"), pd.read_parquet(kept / "scores.parquet"))
    base = ("base", "guidance", "g=1")
    for mine, other in (
        (("sft", "tuned", "tuned"), base),
        (("dpo", "tuned", "tuned"), base),
        (("tkto", "rlg", "w=2"), ("kto", "combined", "k=10")),
    ):
        there, back = own.difference(mine, other, "oracle"), own.difference(other, mine, "oracle")
        assert [there[end] for end in ("mean", "low", "high")] == pytest.approx(
            [-back[end] for end in ("mean", "high", "low")], rel=1e-9
        )


@pytest.mark.parametrize(
    ("name", "key", "field"),
    [
        ("-trade/refl/combined/proxy", "trade/refl/combined/proxy", ""),
        ("refl/rlg/w=0.5/proxy.mean", "refl/rlg/w=0.5/proxy", "mean"),
        ("difference/a:rlg:w=0.5/b:tuned:tuned/oracle", "difference/a:rlg:w=0.5/b:tuned:tuned/oracle", ""),
    ],
)
def test_a_setting_may_have_a_point(name: str, key: str, field: str):
    assert _key_and_field(name) == (key, field)


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
