"""The list of faults stands in the code, and the runner tells a fault that tests notice from one that they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, Mutant, mutants, run


def test_every_entry_stands_once_in_the_code_and_names_tests_that_exist():
    listed = mutants()
    assert len(listed) >= 55
    assert len({(one.file, one.old, one.new) for one in listed}) == len(listed)
    for one in listed:
        assert one.text(ROOT) != (ROOT / one.file).read_text(encoding="utf-8")
        assert one.tests and all((ROOT / test).exists() for test in one.tests)


def test_a_stale_entry_is_named(tmp_path: Path):
    (tmp_path / "code.py").write_text("a = 1\n")
    with pytest.raises(ValueError, match=r"code\.py: 'b = 2' stands there 0 times"):
        Mutant("code.py", "b = 2", "b = 3", ("test_code.py",)).text(tmp_path)


def test_a_fault_is_noticed_only_where_a_test_fails(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def double(x):\n    return 2 * x\n\n\nUNUSED = 1\n")
    (tmp_path / "test_mine.py").write_text("from mine import double\n\n\ndef test():\n    assert double(3) == 6\n")
    seen, unseen = (("2 * x", "3 * x"), ("UNUSED = 1", "UNUSED = 2"))
    chosen = [Mutant("mine.py", old, new, ("test_mine.py",)) for old, new in (seen, unseen)]
    assert [killed for _, killed in run(chosen, tmp_path)] == [True, False]
    assert "2 * x" in (tmp_path / "mine.py").read_text()
