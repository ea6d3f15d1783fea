"""The job `decided` is planned where the study asks for it, and read where something is `auto`."""

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
from workflow.jobs import DECIDED, FINETUNE, REPORT, SAMPLE, SAMPLE_BASE
from workflow.layout import Layout

ASKED = {"diversity": "heldout_diversity"}


def study(decided: bool = True, start: bool = False, k: bool = False, **changes: Any) -> dict[str, Any]:
    """The smoke study, with or without the section, and with what is auto."""
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    del content["decided"]
    content["report"]["figures"] = []
    content["methods"]["imagerefl"] |= {"start": "auto", "middle": "auto"} if start else {"start": 3, "middle": [3, 6]}
    content["sample"]["strategies"]["decided"]["k"] = "auto" if k else [3]
    if decided:
        content["decided"] = dict(ASKED)
    for key, value in changes.items():
        *path, last = key.split("__")
        spot = content
        for part in path:
            spot = spot[part]
        spot[last] = value
    return content


def files(**asked: bool) -> Files:
    return Files(Layout("study.yaml", study(**asked)))


def test_no_job_without_the_section() -> None:
    without, with_it = files(decided=False), files()
    assert DECIDED not in without.stages and DECIDED in with_it.stages
    assert {"plain": without.names(DECIDED), "asked": with_it.names(DECIDED)} == {"plain": [], "asked": [""]}
    outputs = {with_it.layout.out(f"decided/{name}") for name in ("pairs.parquet", "shares.parquet", "auto.json")}
    assert set(with_it.outputs(DECIDED)) == outputs <= set(with_it.kept)
    assert not outputs & set(without.kept)
    assert with_it.layout.out("decided/shares.parquet") in with_it.inputs(REPORT)
    assert "--decided" not in without.command(REPORT)


@pytest.mark.parametrize(("start", "k"), [(False, False), (True, False), (False, True), (True, True)])
def test_auto_is_read_where_something_is_auto(start: bool, k: bool) -> None:
    """Both runners name the file in the jobs that need it, and in no others."""
    found = files(start=start, k=k)
    auto = found.layout.out("decided/auto.json")
    dvc = yaml.safe_load(dvc_file.content(needs=found.layout.needs))["stages"]
    for stage, read in ((FINETUNE, start), (SAMPLE, k), (SAMPLE_BASE, k)):
        assert (auto in found.inputs(stage)) == read == (f"--auto {auto}" in found.command(stage))
        job = dvc[stage.name]["do"] if stage.each else dvc[stage.name]
        assert ("out/${study.name}/decided/auto.json" in job["deps"]) == read == ("--auto" in job["cmd"][-1])


def test_dvc_has_the_job_where_it_is_asked_for() -> None:
    without, with_it = (dvc_file.content(needs=found.layout.needs) for found in (files(decided=False), files()))
    assert "decided" not in yaml.safe_load(without)["stages"]
    made = yaml.safe_load(with_it)["stages"]
    assert made["decided"]["cmd"][-1].startswith("python -m stages.decided --params params.yaml")
    assert "out/${study.name}/decided/shares.parquet" in made["report"]["deps"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            study(decided=False, start=True),
            "methods.imagerefl: start or middle is auto, but there is no section `decided`",
        ),
        (study(decided=False, k=True), "sample.strategies.decided: k is auto, but there is no section `decided`"),
        (study(methods__imagerefl__start="auto"), "methods.imagerefl: start is auto, and so has to be middle"),
        (study(methods__imagerefl__start="late"), "start: expected a number or 'auto', found text 'late'"),
        (study(methods__imagerefl__start=-1), "methods.imagerefl.start: input should be greater than or equal to 0"),
        (study(methods__refl__middle=[1, 2, 3]), "methods.refl.middle: expected at most 2 items"),
        (study(methods__refl__middle="all"), "middle: expected a list or 'auto', found text 'all'"),
        (study(sample__strategies__decided__k=[]), "sample.strategies.decided.k: expected at least one k, or auto"),
        (study(decided__diversity="heldout_diversty"), "decided.diversity: unknown measured diversity"),
        (study(decided__indices=[0, 6]), "decided.indices: 6 is not below 6"),
        (
            study(decided=False, report__figures=["decided"]),
            "report.figures: 'decided' shows the section 'decided', which",
        ),
        (study(measure__passing={"metric": "proxy"}), "measure.passing.metric: 'proxy' is the training reward"),
        (study(sample__strategies__best__prediction={"kind": "combined", "k": "auto"}), "best: prediction: expected"),
    ],
)
def test_refusals(content: Any, words: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as refused:
        load(tmp_path / "study.yaml")
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_study_with_auto_is_fine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study(start=True, k=True)))
    assert load(tmp_path / "study.yaml").decided is not None
