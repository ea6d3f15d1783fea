"""What an interrupted job has saved belongs to the code that the job executes, and to no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOB = """
import sys
from pathlib import Path
from stages import resume
settings = {"method": {"kind": "refl"}, "train": {"steps": 3}}
with resume.keep(Path("params.yaml"), "finetune", "refl-s0", Path("out/toy/runs/refl-s0/policy.safetensors"), settings,
                 [Path("reward.json")]) as state:
    found = state.load("training")
    print("found" if found else "nothing")
    state.save("training", {"step": 1})
    raise SystemExit(7)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which a job was interrupted that trains with `refl` on a reward of kind `open_clip`."""
    root = tmp_path_factory.mktemp("resume")
    shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "params.yaml").write_text("study: {name: toy}\n")
    (root / "reward.json").write_text(json.dumps({"name": "proxy", "kind": "open_clip"}))
    assert interrupted(root) == "nothing"
    return root


def interrupted(root: Path) -> str:
    """Whether the job found what it had saved; it is interrupted again."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", JOB], cwd=root, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 7, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("stages/curate/settings.py", "found"),
        pytest.param("stages/finetune/methods/foo.py", "found", marks=pytest.mark.slow),
        ("stages/finetune/methods/ddpo.py", "found"),
        pytest.param("stages/rewards/jpeg.py", "found", marks=pytest.mark.slow),
        ("stages/finetune/methods/refl.py", "nothing"),
        pytest.param("stages/rewards/open_clip.py", "nothing", marks=pytest.mark.slow),
        pytest.param("stages/finetune/settings.py", "nothing", marks=pytest.mark.slow),
    ],
)
def test_an_edit_of_code_that_the_job_executes(clone: Path, edited: str, expected: str) -> None:
    with (clone / edited).open("a") as file:
        file.write("# a comment\n")
    assert interrupted(clone) == expected
    assert interrupted(clone) == "found"
