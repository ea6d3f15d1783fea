"""A run that names a checkpoint, under both runners: the same jobs, and an edited file reruns its own only."""

from __future__ import annotations

import json
from pathlib import Path

import graphs
import pytest
import torch
import yaml
from project import ROOT, Project, make, small_study
from safetensors.torch import save_file

from stages.errors import InputError
from stages.study import load
from workflow.plan import Plan


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A study with a run that is trained and two checkpoints, of which files are there."""
    study = small_study()
    study["runs"] = {
        "refl-s0": {"method": "refl", "seed": 0},
        "theirs": {"checkpoint": "data/theirs"}, "file": {"checkpoint": "data/file.safetensors"},
    }  # fmt: skip
    del study["methods"]["imagerefl"]
    study["report"].pop("candidate", None)
    made = make(tmp_path / "copy", study)
    (made.root / "data/theirs").mkdir(parents=True)
    lora(made, 0.0)
    save_file({"conv_in.weight": torch.zeros(2)}, made.root / "data/file.safetensors")
    return made


def lora(project: Project, value: float) -> None:
    """A LoRA of one layer in the folder `theirs`."""
    matrices = {f"unet.to_q.lora_{name}.weight": torch.full((2, 2), value) for name in "AB"}
    save_file(matrices, project.root / "data/theirs/pytorch_lora_weights.safetensors")


def test_both_runners_have_the_same_jobs(project: Project) -> None:
    snakemake, dvc = graphs.of_snakemake(project.root), graphs.of_dvc(project.root)
    assert snakemake.jobs.keys() == dvc.jobs.keys()
    assert {"import_policy@theirs", "import_policy@file", "finetune@refl-s0"} <= snakemake.jobs.keys()
    assert not {"finetune@theirs", "import_policy@refl-s0"} & snakemake.jobs.keys()
    for name, job in snakemake.jobs.items():
        other = dvc.jobs[name]
        assert (job.command, job.outputs, job.stamps) == (other.command, other.outputs, other.stamps), name
        unwatched = [file for file in job.inputs if not {file, *map(str, Path(file).parents)} & other.inputs]
        assert not unwatched, name
    for later in ("sample@theirs", "report"):
        assert any(edge == (later, "import_policy@theirs") for edge in snakemake.edges & dvc.edges), later


def test_an_edited_checkpoint_reruns_its_own_jobs(project: Project) -> None:
    assert {"checkpoints theirs", "checkpoints file", "finetune refl-s0"} <= project.snakemake().ran.keys()
    lora(project, 1.0)
    wanted = {"checkpoints theirs", "sample run theirs", "measure samples theirs", "report"}
    assert project.snakemake().ran.keys() == wanted
    assert not project.snakemake().ran


def test_refused_before_the_first_job(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    for name, entry, message in (
        ("x", {"checkpoint": "data/nowhere"}, "runs.x.checkpoint: data/nowhere: no such file or folder"),
        ("x", {"checkpoint": "data/theirs", "seed": 1}, "runs.x.seed: unknown key; known: checkpoint"),
        ("refl", {"checkpoint": "data/theirs"}, "runs.refl: tables call a method so; call the run something else"),
        ("base", {"checkpoint": "data/theirs"}, "runs.base: tables call the base model so"),
        ("x", {"checkpoint": 3}, "runs.x.checkpoint: expected text, found 3"),
    ):
        study = small_study()
        study["runs"][name] = entry
        Path("study.yaml").write_text(json.dumps(study))
        with pytest.raises(InputError, match=message):
            load("study.yaml")


@pytest.mark.parametrize("place", ["out/small/runs/x/policy.safetensors", "absolute", "data/link", "out/small/runs/y"])
def test_a_result_of_the_study_itself_is_no_checkpoint(
    project: Project, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A runner removes a job's outputs before the job: the only copy of the weights would be gone."""
    monkeypatch.chdir(project.root)
    for folder in ("out/small/runs/x", "out/small/runs/y", "out/other/runs/x"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "policy.safetensors").write_bytes((project.root / "data/file.safetensors").read_bytes())
    Path("data/link").symlink_to(project.root / "out/small/runs/x")
    study = small_study()
    study["runs"]["x"] = {"checkpoint": "out/other/runs/x/policy.safetensors"}
    Path("study.yaml").write_text(json.dumps(study))
    load("study.yaml")
    study["runs"]["x"] = {
        "checkpoint": place.replace("absolute", f"{project.root}/out/small/runs/x/policy.safetensors")
    }
    Path("study.yaml").write_text(json.dumps(study))
    with pytest.raises(InputError, match=r"runs\.x\.checkpoint: .* lies among the results of this study"):
        load("study.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("import", "mine", {"kind": "nearest_image", "file": "out/small/data/images.parquet"}),
        ("import", "mine", {"kind": "open_clip", "folder": "out/small/models/clip"}),
        ("curate", "images", {"kind": "parquet", "path": "out/small/data/images.parquet"}),
        ("curate", "pairs", {"kind": "file", "path": "out/small/data/pairs.parquet"}),
    ],
)
def test_a_result_of_the_study_that_is_not_there_yet_is_none_of_its_inputs(
    project: Project, monkeypatch: pytest.MonkeyPatch, section: str, key: str, value: dict[str, str]
) -> None:
    """The message says so, and not only that there is no such file: after another run it would be there."""
    monkeypatch.chdir(project.root)
    study = small_study()
    (study["prepare"]["import"] if section == "import" else study["curate"])[key] = value
    Path("study.yaml").write_text(json.dumps(study))
    with pytest.raises(InputError, match=r"lies among the results of this study, .* or name that of another study"):
        load("study.yaml")


def test_the_example_of_the_page(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/evaluate.md: its runs are accepted, and get the jobs that it speaks of."""
    page = (ROOT / "docs/evaluate.md").read_text(encoding="utf-8")
    study = small_study() | yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    del study["methods"]["imagerefl"]
    study["report"].pop("candidate", None)
    monkeypatch.chdir(project.root)
    (project.root / "data/theirs").rename(project.root / "data/their-lora")
    project.write(study)
    jobs = {job for job, _, _ in Plan.read("params.yaml").jobs()}
    assert {"import_policy@theirs", "sample@theirs", "measure@theirs", "finetune@refl-s0"} <= jobs
    with_checkpoints_only = study | {"methods": {}, "runs": {"theirs": study["runs"]["theirs"]}}
    with_checkpoints_only["study"] = study["study"] | {"reference": "theirs"}
    project.write(with_checkpoints_only)
    jobs = {job for job, _, _ in Plan.read("params.yaml").jobs()}
    assert not any(job.startswith("finetune") for job in jobs)
