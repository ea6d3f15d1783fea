"""`make estimate` builds what is timed and nothing else, then asks for the times."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from project import Project, make, small_study

STAND_IN = """
import sys
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert all(Path(given[name]).exists() for name in ("--params", "--base", "--reward", "--tensors", "--index")), given
print("timed", given["--params"])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = make(tmp_path_factory.mktemp("estimate"), small_study())
    (made.root / "stages/estimate/__main__.py").write_text(STAND_IN)
    return made


@pytest.mark.parametrize("file", ["params.yaml", "other.yaml"])
def test_what_is_timed_is_made_before(project: Project, file: str) -> None:
    study = small_study()
    study["study"]["name"] = Path(file).stem
    (project.root / file).write_text(yaml.safe_dump(study))
    done = project.run("python", "-m", "workflow.estimate", file)
    assert done.text.splitlines()[-1] == f"timed {file}"
    made = {path.name for path in (project.root / "out" / Path(file).stem).iterdir() if path.name != "lineage"}
    assert made == {"plan", "data", "models", "encodings"}
    assert {path.stem for path in (project.root / "out" / Path(file).stem / "models").iterdir()} == {"base", "proxy"}


def test_a_study_that_is_not_there_is_named(project: Project) -> None:
    done = project.run("python", "-m", "workflow.estimate", "nowhere.yaml", check=False)
    assert done.code
    assert done.text.strip().splitlines()[-1].startswith("error: nowhere.yaml: ")
