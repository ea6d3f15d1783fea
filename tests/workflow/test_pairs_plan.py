"""Images of pairs are encoded in studies with a method that learns from pairs, and in no others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from project import ROOT

from stages.errors import InputError
from stages.study import load
from workflow.layout import Layout


def study(kind: str) -> dict[str, Any]:
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    if kind:
        run = next(iter(content["runs"].values()))
        content["methods"][run["method"]] = {"kind": kind}
    return content


def test_only_where_a_method_needs_them() -> None:
    plain, paired = Layout("study.yaml", study("")), Layout("study.yaml", study("diffusion_dpo"))
    assert plain.encoded_pairs == [] and plain.encode_options == ""
    assert paired.encoded_pairs == [paired.out("data/pairs.parquet")]
    assert paired.encode_options == f" --pairs {paired.out('data/pairs.parquet')}"


def test_pairs_that_no_source_gives_are_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    content = study("diffusion_dpo")
    content["curate"]["pairs"] = None
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"learns from pairs, but curate.pairs names no source of them"):
        load(tmp_path / "study.yaml")
