"""Checking a large study stays cheap: the file is read as often for a thousand runs as for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

from benchmarks.planning import PER_RUN, generate
from stages import params
from stages.study import load


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    count, parse = 0, params._parsed

    def counted(text: str, where: str) -> Any:
        nonlocal count
        count += 1
        return parse(text, where)

    monkeypatch.setattr(params, "_parsed", counted)  # what is remembered counts as well
    return lambda: count


def test_runs_do_not_read_the_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: Callable[[], int]
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/smoke.yaml").write_text((ROOT / "studies/smoke.yaml").read_text())
    monkeypatch.chdir(ROOT)
    spent = []
    for runs in (1, 100):
        generate(tmp_path, runs * PER_RUN)  # which reads the file it starts from
        before = readings()
        assert len(load(tmp_path / "studies/generated.yaml").runs) == runs
        spent.append(readings() - before)
    assert spent[0] == spent[1] <= 5
