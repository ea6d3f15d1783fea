"""What the doctor finds: files that are missing, what jobs cost before, a study that does not read."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project, make, small_study

from workflow.doctor import machine, study
from workflow.doctor.finding import Finding


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with a part of it built."""
    made = make(tmp_path_factory.mktemp("doctor"), small_study())
    made.snakemake("out/small/encodings/index.parquet")
    return made


def found(findings: list[Finding], what: str) -> Finding:
    """The one finding about `what`."""
    (finding,) = [finding for finding in findings if finding.what == what]
    return finding


def test_a_study_that_is_partly_built(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    log = project.root / "logs/small/finetune/refl-s0.tsv"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("s\th:m:s\tmax_rss\n120.0\t0:02:00\t900.5\n")
    findings = list(study.look(Path("params.yaml")))
    log.unlink()
    assert not [finding for finding in findings if finding.mark == "missing"]
    assert found(findings, "model oracle").found == "shapes_oracle, needs no files"
    jobs = found(findings, "jobs").found
    assert "finetune 3" in jobs
    assert "curate" not in jobs
    assert "encode" not in jobs
    cost = found(findings, "cost").found
    assert cost.startswith("about 6 min one after another, 900 MB in the largest job, without measure,")


def test_a_compiler_is_asked_for_only_where_the_study_compiles(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mark(**changes: object) -> str | None:
        study_ = small_study()
        study_["sample"] |= changes.get("sample", {})
        next(iter(study_["methods"].values()))["train"] = changes.get("train", {})
        Path("quick.yaml").write_text(yaml.safe_dump(study_))
        return next((each.mark for each in study.look(Path("quick.yaml")) if each.what == "compiler"), None)

    monkeypatch.chdir(project.root)
    monkeypatch.setattr(study, "_planned", lambda file: Counter[str]())  # asked after the compiler; takes seconds
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert mark() is None and mark(sample={"compile": False}) is None
    assert mark(sample={"compile": True}) == mark(train={"compile": True}) == "note"
    monkeypatch.setenv("CXX", sys.executable)
    assert mark(train={"compile": True}) == "ok"


def test_what_is_missing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    lacking = small_study()
    lacking["prepare"]["import"]["base"]["folder"] = "nowhere/base"
    lacking["curate"]["images"] = {"kind": "folder", "path": "nowhere/images"}
    Path("lacking.yaml").write_text(yaml.safe_dump(lacking))
    findings = list(study.look(Path("lacking.yaml")))
    assert found(findings, "model base") == Finding("missing", "model base", "nowhere/base: not there")
    assert found(findings, "data") == Finding("missing", "data", "nowhere/images: no such file or folder")
    assert len([finding for finding in findings if finding.mark == "missing"]) == 2, "said twice"
    lacking["runs"]["refl-s0"]["seed"] = 1
    Path("lacking.yaml").write_text(yaml.safe_dump(lacking))
    assert "runs.refl-s0: a run is called" in found(list(study.look(Path("lacking.yaml"))), "study").found


@pytest.mark.parametrize(("side", "gpu", "said"), [(512, False, True), (512, True, False), (None, False, False)])
def test_large_images_want_a_gpu(
    project: Project, monkeypatch: pytest.MonkeyPatch, side: int | None, gpu: bool, said: bool
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(study, "gpus", lambda: ["a GPU (80 GB)"] * gpu)
    large = small_study()
    large["curate"]["side"] = side
    large["prepare"]["import"]["base"]["folder"] = "nowhere/base"  # so that nothing is planned
    Path("large.yaml").write_text(yaml.safe_dump(large))
    findings = list(study.look(Path("large.yaml")))
    assert any(finding.what == "GPU" and "images of 512 pixels" in finding.found for finding in findings) == said


def test_a_model_of_a_hub_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"kind": "diffusers", "hub": "owner/model", "revision": "0123456789abcdef"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert study._model("base", model).mark == "note"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    finding = study._model("base", model)
    assert finding.mark == "missing"
    assert finding.found.startswith("owner/model at 0123456789ab: not in the cache")


@pytest.mark.parametrize(("options", "unset"), [
    ({"url": "$SCORER", "reward": "x"}, "SCORER"), ({"url": "http://host", "token": "TOKEN"}, "TOKEN"),
    ({"url": "$SCORER", "token": "TOKEN"}, "SCORER"), ({"url": "http://host"}, ""),
])  # fmt: skip
def test_variables_of_a_server_are_set(monkeypatch: pytest.MonkeyPatch, options: dict[str, str], unset: str) -> None:
    model = {"kind": "http", "options": options}
    for name in ("SCORER", "TOKEN"):
        monkeypatch.delenv(name, raising=False)
    found = study._model("judge", model)
    assert (found.mark, unset in found.found) == ("missing" if unset else "ok", True)
    for name in ("SCORER", "TOKEN"):
        monkeypatch.setenv(name, "http://host")
    assert study._model("judge", model).mark == "ok"


def test_a_tracking_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINEAGE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finding = machine._tracking()
    assert finding.mark == "note"
    assert finding.found.startswith("http://127.0.0.1:9 does not answer")
    assert "secret" not in finding.found


def test_a_remote_of_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [finding.mark for finding in machine._dvc()] == ["note"]
    (tmp_path / ".dvc").mkdir()
    config = tmp_path / ".dvc/config"
    config.write_text("[core]\n    remote = lab\n['remote \"lab\"']\n    url = s3://bucket/store\n")
    assert list(machine._dvc()) == [Finding("ok", "DVC remote", "lab: s3://bucket/store")]
    config.write_text("[core]\n    remote = lab\n['remote \"lab\"']\n    url = /nowhere/store\n")
    assert [finding.mark for finding in machine._dvc()] == ["note"]


def test_the_whole_says_what_is_missing_with_its_exit_code(project: Project) -> None:
    done = project.run("python", "-m", "workflow.doctor", "absent.yaml", check=False)
    assert done.code == 1
    assert "absent.yaml: no such study file" in done.text
    assert "1 missing: the study cannot run as it is" in done.text
    assert "torch" in done.text


def test_make_knows_the_doctor() -> None:
    assert "python -m workflow.doctor $(FILE)" in (ROOT / "Makefile").read_text()
