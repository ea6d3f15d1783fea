"""A function of one's own that a study names is code of the jobs that take it: both runners see a change of it."""

from __future__ import annotations

import json
from pathlib import Path

from project import Project, make, small_study


def stamps(project: Project) -> dict[str, dict[str, str]]:
    """The stamp of the code of every job."""
    files = sorted((project.root / "out/small/plan").glob("*/code.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def test_a_change_of_the_function_concerns_its_model(tmp_path: Path) -> None:
    study = small_study()
    study["prepare"]["import"]["mine"] = {"kind": "python", "options": {"function": "judging:score"}}
    project = make(tmp_path, study)
    missing = project.run("python", "-m", "workflow.plan", check=False)
    where = "error: params.yaml: prepare.import.mine.options.function: there is no module 'judging' in "
    assert missing.code == 2 and missing.text.startswith(where) and missing.text.count("\n") == 1
    (project.root / "judging.py").write_text(
        "import helping\n\ndef score(images, prompts):\n    return helping.score(images)\n"
    )
    (project.root / "helping.py").write_text("")
    project.run("python", "-m", "workflow.plan")
    before = stamps(project)
    assert {"judging.py", "helping.py"} < before["prepare_import@mine"].keys()
    (project.root / "helping.py").write_text("# changed\n")
    project.run("python", "-m", "workflow.plan")
    after = stamps(project)
    assert [job for job in before if before[job] != after[job]] == ["prepare_import@mine"]


def test_a_function_that_perturbs_captions_concerns_curation(tmp_path: Path) -> None:
    study = small_study()
    study["curate"]["pairs"] = [study["curate"]["pairs"], {"kind": "perturbed", "function": "writing:perturb"}]
    project = make(tmp_path, study)
    missing = project.run("python", "-m", "workflow.plan", check=False)
    where = "error: params.yaml: curate.pairs.1.function: there is no module 'writing' in "
    assert missing.code == 2 and missing.text.startswith(where) and missing.text.count("\n") == 1
    (project.root / "writing.py").write_text("def perturb(captions, each, seed):\n    return [[] for _ in captions]\n")
    project.run("python", "-m", "workflow.plan")
    before = stamps(project)
    assert "writing.py" in before["curate"]
    (project.root / "writing.py").write_text("def perturb(captions, each, seed):\n    return []\n")
    project.run("python", "-m", "workflow.plan")
    after = stamps(project)
    assert [job for job in before if before[job] != after[job]] == ["curate"]
