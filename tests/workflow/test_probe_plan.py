"""The oracle that probes ask is an input of every training, under both runners, and of none where they ask none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from project import ROOT

from workflow import dvc_file
from workflow.files import Files
from workflow.jobs import FINETUNE
from workflow.layout import Layout


def files(oracle: str | None) -> Files:
    content: dict[str, Any] = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    content["prepare"]["import"]["truth"] = content["prepare"]["import"]["oracle"]
    content["finetune"]["probe"]["oracle"] = oracle
    return Files(Layout("study.yaml", content))


@pytest.mark.parametrize("oracle", ["oracle", "truth", None])
def test_trainings_read_the_oracle(oracle: str | None) -> None:
    found = files(oracle)
    dvc = yaml.safe_load(dvc_file.content(needs=found.layout.needs))["stages"]["finetune"]["do"]
    named = [one for one in found.inputs(FINETUNE) if one == found.layout.model(str(oracle))]
    assert named == ([found.layout.model(oracle)] if oracle else [])
    assert (f"--oracle {found.layout.model(str(oracle))}" in found.command(FINETUNE)) == bool(oracle)
    placed = "out/${study.name}/models/${finetune.probe.oracle}.json"
    assert (placed in dvc["deps"]) == (f"--oracle {placed}" in dvc["cmd"][-1]) == bool(oracle)
