"""The job `select` is planned where the study has that section, and encode then reads its pairs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT

from stages import code
from stages.errors import InputError
from stages.select.settings import PACKAGE
from stages.study import load
from workflow import dvc_file
from workflow.doctor.pairs import look
from workflow.files import Files
from workflow.jobs import ENCODE, REPORT, SELECT, STAGES
from workflow.layout import Layout
from workflow.plan import Plan

STEPS = [{"kind": "majority", "by": ["proxy"]}, {"kind": "margin_band", "reward": "heldout", "low": 0.1}]


def study(*steps: dict[str, Any], kind: str = "diffusion_dpo") -> dict[str, Any]:
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    if kind:
        run = next(iter(content["runs"].values()))
        content["methods"][run["method"]] = {"kind": kind}
    if steps:
        content["select"] = {"steps": list(steps)}
    return content


def test_only_where_the_study_has_the_section() -> None:
    """Every other job is as without it, but encode, which reads the selected pairs in place of the curated ones, and
    the report, which says what was selected.
    """
    plain, chosen = (Files(Layout("study.yaml", study(*steps))) for steps in ((), STEPS))
    assert SELECT not in plain.stages and SELECT in chosen.stages
    curated, selected = (plain.layout.out(f"{folder}/pairs.parquet") for folder in ("data", "select"))
    assert chosen.command(ENCODE) == plain.command(ENCODE).replace(f"--pairs {curated}", f"--selected {selected}")
    assert set(chosen.inputs(ENCODE)) == {*plain.inputs(ENCODE), selected} - {curated}
    scores = {plain.layout.out(f"scores/{name}.parquet") for name in ("proxy", "heldout")}
    assert set(chosen.inputs(SELECT)) == {curated, plain.layout.out("data/images.parquet"), *scores}
    manifest = chosen.layout.out("select/manifest.json")
    assert chosen.command(REPORT) == plain.command(REPORT).replace(" --out", f" --select {manifest} --out")
    assert set(chosen.inputs(REPORT)) == {*plain.inputs(REPORT), manifest}
    for stage in STAGES:
        if stage not in (SELECT, ENCODE, REPORT):
            assert chosen.command(stage) == plain.command(stage)


def test_only_the_scores_that_a_step_asks_for() -> None:
    files = Files(Layout("study.yaml", study(STEPS[0])))
    assert [file for file in files.inputs(SELECT) if "/scores/" in file] == [files.layout.out("scores/proxy.parquet")]


def test_dvc_has_the_job_where_it_is_asked_for() -> None:
    plain, chosen = (
        yaml.safe_load(dvc_file.of(Layout("study.yaml", study(*steps))))["stages"] for steps in ((), STEPS)
    )
    assert "select" not in plain and chosen["select"]["cmd"][-1].startswith("python -m stages.select --params")
    assert {"out/${study.name}/scores", "data"} <= set(chosen["select"]["deps"])
    assert "--selected out/${study.name}/select/pairs.parquet" in chosen["encode"]["cmd"][-1]
    same = plain.keys() - {"encode", "report"}
    assert {name: plain[name] for name in same} == {name: chosen[name] for name in same}


def test_an_edited_step_concerns_studies_that_use_it() -> None:
    """Its file is among the code of the job there, and of no other job."""
    used = code.digests("stages.select.__main__", (), code.texts_of(STEPS))
    files = {kind: f"{PACKAGE.replace('.', '/')}/{kind}.py" for kind in ("majority", "margin_band", "fifa", "hps_v1")}
    assert {files["majority"], files["margin_band"]} <= used.keys()
    assert not {files["fifa"], files["hps_v1"]} & used.keys()
    for stage in ("score", "encode", "finetune"):
        executed = code.digests(f"stages.{stage}.__main__", (), code.texts_of(STEPS))
        assert not [file for file in executed if file.startswith("stages/select/")], stage


def refused(content: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(ROOT)
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as found:
        load(folder / "study.yaml")
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            [{"kind": "majority", "by": ["prxy"]}],
            "select.steps.0: unknown reward of score.rewards 'prxy'; did you mean",
        ),
        ([STEPS[0], {"kind": "fifs"}], "select.steps.1.kind: unknown kind 'fifs'; did you mean 'fifa'?"),
        ([{"kind": "soft", "reward": "proxy"}], "select.steps.0.range: field required"),
        (
            [{"kind": "fifa", "reward": "proxy", "top": 5, "quality": {"path": "data/none.csv"}}],
            "select.steps.0: data/none.csv: no such file",
        ),
    ],
)
def test_refusals(
    steps: list[dict[str, Any]], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    assert words in refused(study(*steps), tmp_path, monkeypatch)


def test_a_section_without_steps_or_without_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = study() | {"select": {"steps": []}}
    assert "select.steps: expected at least 1 item" in refused(empty, tmp_path, monkeypatch)
    unused = refused(study(*STEPS, kind=""), tmp_path, monkeypatch)
    assert "select: no trained method learns from pairs; expected one, or no such section" in unused


def test_settings_stand_with_their_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another spelling of a value changes nothing that a job is known by; another value does."""
    monkeypatch.chdir(ROOT)
    stamps = []
    for step in (STEPS[0], STEPS[0] | {"label": "winner"}, STEPS[0] | {"label": "share"}):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study(step)))
        stamps.append(Plan.read(tmp_path / "study.yaml").settings(SELECT, ""))
    assert stamps[0] == stamps[1] != stamps[2]
    assert stamps[0]["select"]["steps"][0]["even"] == "tie"


def test_files_from_outside_are_inputs(tmp_path: Path) -> None:
    table = tmp_path / "quality.csv"
    table.write_text("prompt,score\n")
    step = {"kind": "fifa", "reward": "proxy", "top": 5, "quality": {"path": str(table)}}
    assert Layout("study.yaml", study(step)).sources("select") == [str(table)]
    assert Layout("study.yaml", study(*STEPS)).sources("select") == []


def ties(folder: Path, count: int = 3) -> dict[str, Any]:
    """A study of a table without a preference."""
    table = folder / "pairs.csv"
    table.write_text("left,right,prompt,p\n" + "a.png,b.png,a cat,0.5\n" * count)
    content = study(kind="diffusion_dpo")
    content["curate"]["pairs"] = {
        "kind": "file", "path": str(table), "image_a": "left", "image_b": "right", "preference": "p",
    }  # fmt: skip
    return content


def test_the_doctor_knows_that_rewards_label_ties(tmp_path: Path) -> None:
    content = ties(tmp_path)
    (found,) = look(content)
    assert found.mark == "missing" and "nothing to learn" in found.found
    (found,) = look(content | {"select": {"steps": [STEPS[0]]}})
    assert found.mark == "note"
    (found,) = look(content | {"select": {"steps": [STEPS[1]]}})
    assert found.mark == "missing" and "nothing to learn" in found.found


def test_the_doctor_names_a_step_that_needs_more_pairs(tmp_path: Path) -> None:
    content = ties(tmp_path)
    top = {"kind": "fifa", "reward": "proxy", "top": 4}
    found = list(look(content | {"select": {"steps": [STEPS[0], top]}}))
    assert [one.mark for one in found] == ["note", "missing"]
    assert "select.steps.1 (fifa): keeps 4 pairs, but the tables have 3" in found[1].found
    assert [one.mark for one in look(content | {"select": {"steps": [STEPS[0], top | {"top": 3}]}})] == ["note"]
