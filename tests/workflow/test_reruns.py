"""After a change, the jobs that it touches run again and no others, whichever runner is used, and the other agrees."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from project import Project, make, small_study

from workflow import dvc_sync

RUNS = ("refl-s0", "refl-s1", "imagerefl-s0")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, built once by Snakemake; every test leaves it built."""
    made = make(tmp_path_factory.mktemp("reruns"), small_study())
    assert sum(made.snakemake().ran.values()) == 22
    return made


def of(runs: Iterable[str], *kinds: str) -> set[str]:
    """Jobs of some runs, from training on."""
    return {f"{kind} {run}" for run in runs for kind in kinds or ("finetune", "sample run", "measure samples")}


def test_nothing_runs_twice(project: Project) -> None:
    """By the commands themselves, each of which has a hash seed of its own."""
    assert not project.snakemake(literally=True).ran
    assert not project.dvc(literally=True).ran


def test_one_methods_learning_rate(project: Project) -> None:
    """Snakemake, DVC and Snakemake again build each value once, going back to the first value included."""
    expected = of(["imagerefl-s0"]) | {"report"}
    start = project.text("out/small/report/metrics.json")
    project.edit("methods.imagerefl.train", {"optimizer": {"lr": 1e-4}})
    assert project.snakemake().ran.keys() == expected
    assert not project.dvc().ran
    project.edit("methods.imagerefl.train", {"optimizer": {"lr": 3e-4}})
    assert project.dvc().ran.keys() == expected
    assert not project.snakemake().ran
    project.edit("methods.imagerefl.train", None)
    assert project.snakemake().ran.keys() == expected
    assert not project.dvc().ran
    assert project.text("out/small/report/metrics.json") == start


@pytest.mark.slow
def test_code_of_a_stage_and_of_none(project: Project) -> None:
    after_encode = {"encode", "sample base", "measure samples base", "report"} | of(RUNS)
    project.append("stages/encode/settings.py", "# a comment\n")
    assert project.snakemake().ran.keys() == after_encode
    assert not project.dvc().ran
    for unrelated in ("stages/lineage/job.py", "stages/study.py", "workflow/layout.py", "stages/prepare/ship.py"):
        project.append(unrelated, "# a comment\n")
    os.utime(project.root / "stages/sample/settings.py")  # a new time, as git gives it, is no change
    project.append("stages/encode/settings.py", "# another comment\n")
    assert project.dvc().ran.keys() == {"encode"}  # DVC sees that the encodings are the same as before
    assert not project.snakemake().ran


METHOD = '"""A method that no study names."""\n'


@pytest.mark.parametrize(
    ("file", "executed", "following"),
    [
        pytest.param("stages/finetune/methods/foo.py", set(), set(), marks=pytest.mark.slow),
        pytest.param(
            "stages/finetune/methods/imagerefl.py",
            {"finetune imagerefl-s0", "report"},
            of(["imagerefl-s0"], "sample run", "measure samples"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_plug_in_concerns_the_jobs_that_name_it(
    project: Project, file: str, executed: set[str], following: set[str]
) -> None:
    """A new file and an edited one, under either runner: jobs that execute it, and jobs that follow from those. Which
    jobs execute which files: `test_code.py`.
    """
    (project.root / file).touch()
    project.append(file, METHOD)
    assert project.snakemake().ran.keys() == executed | following
    assert not project.dvc().ran
    project.append(file, METHOD)
    assert project.dvc().ran.keys() == executed  # what it makes is the same as before, and DVC sees that
    assert not project.snakemake().ran


@pytest.mark.slow
def test_the_same_value_in_another_spelling(project: Project) -> None:
    """What is compared are validated settings: other numerals, a default that is written out, another order."""
    text = project.text("params.yaml")
    spelled = text.replace("lr: 0.0002", "lr: 2.0e-4").replace("steps: 80", "steps: 80.0")
    spelled = spelled.replace("clip_norm: 1.0", "clip_norm: 1").replace("aig:", "aig:\n      guidance: 1.0")
    assert spelled.count("\n") == text.count("\n") + 1 and spelled != text
    (project.root / "params.yaml").write_text(spelled)
    study = project.read()
    study["measure"]["neighbours"] = 3
    study["methods"]["refl"]["train"] = {"steps": 80, "guidance": 1}
    study["finetune"] = dict(reversed(study["finetune"].items()))
    project.write(study)
    assert not project.snakemake().ran
    assert not project.dvc().ran
    before = project.text("out/small/runs/refl-s0/policy.safetensors")
    project.edit("methods.refl.train", {"steps": 81})
    assert "finetune refl-s0" in project.snakemake("--until", "finetune").ran
    (project.root / "params.yaml").write_text(text)
    assert not project.dvc().ran  # DVC has that value's results in its cache
    assert project.text("out/small/runs/refl-s0/policy.safetensors") == before
    assert not project.snakemake().ran


@pytest.mark.slow
def test_outputs_restored_by_dvc(project: Project) -> None:
    """`dvc checkout` gives files new times, in any order."""
    before = project.text("out/small/report/metrics.json")
    shutil.rmtree(project.root / "out")
    project.dvc("checkout")
    assert not project.snakemake().ran
    assert project.text("out/small/report/metrics.json") == before


@pytest.mark.slow
def test_a_run_more_and_a_run_less(project: Project) -> None:
    """The order of entries does not matter."""
    study = project.read()
    study["methods"] = dict(reversed(study["methods"].items()))
    study["score"]["rewards"] = [*study["score"]["rewards"], "heldout"]
    study["runs"]["imagerefl-s1"] = {"method": "imagerefl", "seed": 1}
    project.write(study)
    assert project.snakemake().ran.keys() == of(["imagerefl-s1"]) | {"score heldout", "report"}
    project.edit("runs.imagerefl-s1", None)
    assert project.dvc().ran.keys() == {"report"}
    assert not project.snakemake().ran


@pytest.mark.slow
def test_files_from_outside(project: Project) -> None:
    """A model's own weights count, another file beside the data does not."""
    (project.root / "data/unrelated.csv").write_text("nothing")
    assert not project.snakemake().ran
    (project.root / "shipped/shapes/patch/weights.bin").write_text("other weights")
    expected = {"prepare import patch", "measure reference", "report"} | of(["base", *RUNS], "measure samples")
    assert project.snakemake().ran.keys() == expected
    assert not project.dvc().ran


@pytest.mark.slow
def test_votes_make_the_report_again_and_nothing_else(project: Project) -> None:
    def vote(name: str, voters: int) -> None:
        content = {"study": "x", "voters": voters, "votes": 0, "rates": [], "agreement": {}, "consistency": None}
        (project.root / f"votes/{name}.json").write_text(json.dumps(content))

    vote("small", 0)
    assert not project.snakemake().ran
    project.edit("report.votes", "votes/small.json")
    assert project.snakemake().ran.keys() == {"report"}
    assert not project.dvc().ran
    vote("small", 1)
    assert project.dvc().ran.keys() == {"report"}
    assert not project.snakemake().ran
    vote("small", 2)
    assert project.snakemake().ran.keys() == {"report"}
    vote("other", 0)
    assert not project.snakemake().ran
    project.edit("report.votes", None)
    assert project.snakemake().ran.keys() == {"report"}


@pytest.mark.slow
def test_planning_leaves_no_trace(project: Project) -> None:
    project.edit("encode.batch_size", 64)
    assert "encode" in project.snakemake("--dry-run").text
    project.edit("encode.batch_size", 128)
    os.utime(project.root / "dvc.lock", (1, 1))  # DVC's word alone must not decide this
    assert not project.snakemake().ran


@pytest.mark.slow
def test_part_of_a_study_is_no_news_for_dvc(project: Project) -> None:
    """A run of some targets leaves the others stale; DVC must not take those for current."""
    project.edit("methods.imagerefl.start", 9)
    assert project.snakemake("out/small/runs/imagerefl-s0/policy.safetensors").ran.keys() == {"finetune imagerefl-s0"}
    assert project.dvc().ran.keys() >= {"sample run imagerefl-s0", "measure samples imagerefl-s0", "report"}
    assert not project.snakemake().ran


@pytest.mark.slow
def test_a_failed_job_stops_what_follows_and_shows_its_log(project: Project) -> None:
    project.edit("finetune.steps", 90)
    (project.root / "fail.txt").write_text("sample refl-s1")
    failed = project.snakemake("--keep-going", check=False)
    assert failed.code == 1
    assert "told to fail" in failed.text
    assert not (project.root / "out/small/samples/refl-s1.parquet").exists()
    (project.root / "fail.txt").unlink()
    assert project.snakemake().ran.keys() == {"sample run refl-s1", "measure samples refl-s1", "report"}


@pytest.mark.slow
def test_another_study_beside_it(project: Project) -> None:
    other = project.read()
    other["study"]["name"] = "other"
    project.write(other, "studies/other.yaml")
    ran = project.snakemake("--config", "study=studies/other.yaml", "--until", "curate").ran
    assert ran.keys() == {"curate"}
    assert (project.root / "out/other/data/manifest.json").exists()
    project.edit("study.name", "small", "studies/other.yaml")
    project.edit("study.seed", 5, "studies/other.yaml")
    refused = project.snakemake("--config", "study=studies/other.yaml", check=False)
    assert refused.code == 2
    assert "studies/other.yaml: study.name: params.yaml has the same name 'small' and other content" in refused.text


def test_dvc_that_cannot_answer(project: Project) -> None:
    lock = project.text("dvc.lock")
    project.append("dvc.lock", "stages: [not, a, mapping]\n")
    refused = project.snakemake(check=False)
    assert refused.code == 2
    assert "error: dvc status fails: " in refused.text
    (project.root / "dvc.lock").write_text(lock)


@pytest.mark.slow
def test_results_are_those_of_a_fresh_build(project: Project) -> None:
    """After all these changes, every file has the content that it gets when everything is built anew."""

    def contents() -> dict[str, str]:
        out = project.root / "out/small"
        return {job: (out / job).read_text() for job in ("report/metrics.json", "measures/imagerefl-s0.parquet")}

    before = contents()
    project.snakemake("--forceall")
    assert contents() == before


def test_no_commit_of_what_was_edited_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    Path("params.yaml").write_text("edited")
    calls: list[object] = []
    monkeypatch.setattr(dvc_sync.subprocess, "run", lambda *words, **more: calls.append(words))
    dvc_sync.commit(time.time() - 60, ["params.yaml"])
    assert not calls
    assert "params.yaml was edited during the run" in capsys.readouterr().out
