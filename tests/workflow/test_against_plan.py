"""A report beside an earlier one (`report.against`), under both runners: an input of the report job and of no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import graphs
import pytest
import yaml
from project import Project, make, small_study

from stages.errors import InputError
from stages.study import load


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The small study, compared with the report in the folder `before`."""
    study = small_study()
    study["report"]["against"] = "before"
    made = make(tmp_path / "copy", study)
    page(made.root / "before", "small")
    return made


def page(folder: Path, study: str, number: float = 0.5) -> None:
    """The page of an earlier report of this study, with one number in it."""
    folder.mkdir(parents=True, exist_ok=True)
    block = {"study": study, "columns": ["key", "mean"], "findings": [["a", number]], "provenance": {"facts": []}}
    text = f'<html><script type="application/json" id="x-data">{json.dumps(block)}</script></html>'
    (folder / "index.html").write_text(text)


def test_both_runners_have_the_page_as_an_input_and_the_table_as_an_output(project: Project) -> None:
    snakemake, dvc = graphs.of_snakemake(project.root), graphs.of_dvc(project.root)
    for found in (snakemake.jobs, dvc.jobs):
        assert {name for name, job in found.items() if "before/index.html" in job.inputs} == {"report"}
        assert {name for name, job in found.items() if "out/small/report/against.csv" in job.outputs} == {"report"}


@pytest.mark.slow
def test_another_earlier_report_makes_the_report_again_and_nothing_else(project: Project) -> None:
    assert "report" in project.snakemake().ran
    assert (project.root / "out/small/report/against.csv").exists()
    assert not project.snakemake().ran
    assert not project.dvc().ran
    page(project.root / "before", "small", 0.25)
    assert project.dvc().ran.keys() == {"report"}
    assert not project.snakemake().ran
    page(project.root / "before", "small", 0.125)
    assert project.snakemake().ran.keys() == {"report"}
    shutil.copytree(project.root / "before", project.root / "older ${x}")  # nothing for DVC to fill in
    project.edit("report.against", "older ${x}")
    assert project.snakemake().ran.keys() == {"report"}
    dvc_writes_its_file_anew(project)
    assert "older \\${x}/index.html" in project.text("dvc.yaml")
    project.edit("report.against", None)
    assert project.snakemake().ran.keys() == {"report"}
    dvc_writes_its_file_anew(project)
    assert "older \\${x}" not in project.text("dvc.yaml")
    assert not project.snakemake().ran


def dvc_writes_its_file_anew(project: Project) -> None:
    """Once more than needed, or from its cache: Snakemake has settled the run by the file of the study as it was."""
    assert "type the same command once more" in project.dvc(check=False).text
    assert project.dvc().ran.keys() <= {"report"}
    assert not project.dvc().ran


def test_refused_before_the_first_job(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    page(Path("foreign"), "other")
    page(Path("out/small/report"), "small")
    Path("empty").mkdir()
    for name, content in (("text", "<html></html>"), ("broken", "{"), ("list", "[1]"), ("old", '{"study": "small"}')):
        Path(name).mkdir()
        script = f'<script type="application/json" id="x-data">{content}</script>' if name != "text" else content
        Path(name, "index.html").write_text(script)
    Path("picture").mkdir()
    Path("picture/index.html").write_bytes(b"\x89PNG\xff\xfe")
    none = "no page of a study with its numbers in it; expected an earlier report"
    for folder, message in (
        ("nowhere", "nowhere/index.html: No such file or directory; expected the folder of an earlier report"),
        ("empty", "empty/index.html: No such file or directory; expected the folder of an earlier report"),
        ("before/index.html", "before/index.html/index.html: Not a directory; expected the folder"),
        ("foreign", "foreign: a report of the study 'other', expected one of 'small'"),
        ("out/small/report", "out/small/report: lies among the results of this study"),
        *((name, f"{name}/index.html: {none}") for name in ("text", "broken", "list", "old", "picture")),
        (3, "expected text or null, found 3"),
    ):
        study = small_study()
        study["report"]["against"] = folder
        Path("study.yaml").write_text(yaml.safe_dump(study))
        with pytest.raises(InputError) as refused:
            load("study.yaml")
        assert str(refused.value).startswith("study.yaml: report.against: ")
        assert message in str(refused.value)


def test_neither_runner_begins_a_job_on_a_foreign_report(project: Project) -> None:
    page(project.root / "before", "other")
    for done in (project.snakemake(check=False), project.dvc(check=False)):
        assert done.code
        assert not done.ran
        assert "report.against: before: a report of the study 'other', expected one of 'small'" in done.text
