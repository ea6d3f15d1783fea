"""The list of faults stands in the code, and the runner tells a fault that tests notice from one that they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants import worker
from tests.mutants.__main__ import ROOT, Mutant, failing, known, mutants, run, write


def test_every_entry_stands_once_in_the_code_and_names_tests_that_exist():
    listed = mutants()
    assert len(listed) >= 55
    assert len({(one.file, one.old, one.new) for one in listed}) == len(listed)
    for one in listed:
        assert one.text(ROOT) != (ROOT / one.file).read_text(encoding="utf-8")
        assert one.tests
        for test in one.tests:
            file, _, name = test.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not name or f"def {name.partition('[')[0]}(" in text, test


def test_a_stale_entry_is_named(tmp_path: Path):
    (tmp_path / "code.py").write_text("a = 1\n")
    with pytest.raises(ValueError, match=r"code\.py: 'b = 2' stands there 0 times"):
        Mutant("code.py", "b = 2", "b = 3", ("test_code.py",)).text(tmp_path)


def test_a_fault_is_noticed_only_where_a_test_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "LIBRARIES", [])
    (tmp_path / "mine.py").write_text("def double(x):\n    return 2 * x\n\n\nUNUSED = 1\n")
    (tmp_path / "test_mine.py").write_text("from mine import double\n\n\ndef test():\n    assert double(3) == 6\n")
    seen, unseen = (("2 * x", "3 * x"), ("UNUSED = 1", "UNUSED = 2"))
    chosen = [Mutant("mine.py", old, new, ("test_mine.py::test",)) for old, new in (seen, unseen)]
    assert failing(chosen, [tmp_path]) == []
    assert {mutant.old: killed for mutant, killed in run(chosen, [tmp_path])} == {"2 * x": True, "UNUSED = 1": False}
    assert "2 * x" in (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text("def double(x):\n    return x\n")
    assert failing(chosen, [tmp_path]) == ["test_mine.py"]


def test_results_of_other_faults_are_kept_in_the_order_of_the_list(tmp_path: Path):
    every = [Mutant(f"{name}.py", "a", "b", ("t.py",)) for name in "cab"]
    out = tmp_path / "mutants.json"
    assert known(out) == {}
    for name, seen in (("b", True), ("c", False), ("gone", True)):
        row = {"file": f"{name}.py", "old": "a", "new": "b", "noticed": seen}
        write(out, every, known(out) | {(f"{name}.py", "a", "b"): row})
    assert [(row["file"], row["noticed"]) for row in known(out).values()] == [("c.py", False), ("b.py", True)]
    assert json.loads(out.read_text())["listed"] == 3
