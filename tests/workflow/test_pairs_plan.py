"""Images of pairs are encoded in studies with a method that learns from pairs, and in no others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from project import ROOT

from stages.errors import InputError
from stages.study import load
from workflow import dvc_file
from workflow.files import Files
from workflow.jobs import ENCODE
from workflow.layout import Layout


def study(kind: str) -> dict[str, Any]:
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    if kind:
        run = next(iter(content["runs"].values()))
        content["methods"][run["method"]] = {"kind": kind}
    return content


def test_only_where_a_method_needs_them() -> None:
    """Both runners read and name the table of pairs for such a study; for others the job is as without it."""
    plain, paired = (Files(Layout("study.yaml", study(kind))) for kind in ("", "diffusion_dpo"))
    table = plain.layout.out("data/pairs.parquet")
    assert table not in plain.inputs(ENCODE) and "--pairs" not in plain.command(ENCODE)
    assert set(paired.inputs(ENCODE)) == {*plain.inputs(ENCODE), table}
    assert paired.command(ENCODE).replace(f" --pairs {table}", "") == plain.command(ENCODE)
    ordinary, more = (
        yaml.safe_load(dvc_file.content(needs=files.layout.needs))["stages"]["encode"] for files in (plain, paired)
    )
    dvc_table = "out/${study.name}/data/pairs.parquet"
    assert set(more["deps"]) == {*ordinary["deps"], dvc_table} and dvc_table not in ordinary["deps"]
    assert more["cmd"][-1].replace(f" --pairs {dvc_table}", "") == ordinary["cmd"][-1]


def test_pairs_that_no_source_gives_are_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    content = study("diffusion_dpo")
    content["curate"]["pairs"] = None
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"learns from pairs, but curate.pairs names no source of them"):
        load(tmp_path / "study.yaml")
