"""What an interrupted job has saved belongs to the code that the job executes, and to no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOB = """
import os, sys
from pathlib import Path
import torch
from stages import resume

for _ in sys.stdin:
    child = os.fork()
    if not child:
        break
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    raise SystemExit
settings = {"method": {"kind": "refl"}, "train": {"steps": 3}}
with resume.keep(Path("params.yaml"), "finetune", "refl-s0", Path("out/toy/runs/refl-s0/policy.safetensors"), settings,
                 [Path("reward.json")]) as state:
    found = state.load("training")
    print("found" if found else "nothing", flush=True)
    state.save("training", {"step": 1})
    raise SystemExit(7)
"""
"""A job per line of stdin, each in a process forked from one that has imported what it needs and has done nothing."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project and a job in it that trains with `refl` on a reward of kind `open_clip`."""
    root = tmp_path_factory.mktemp("resume")
    shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "params.yaml").write_text("study: {name: toy}\n")
    (root / "reward.json").write_text(json.dumps({"name": "proxy", "kind": "open_clip"}))
    return root


@pytest.fixture(scope="module")
def interrupted(clone: Path) -> Iterator[Callable[[], str]]:
    """Runs the job until it is interrupted, and says whether it found what it had saved; it was interrupted once."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        [sys.executable, "-c", JOB], cwd=clone, env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as jobs:  # fmt: skip
        assert jobs.stdin and jobs.stdout
        stdin, stdout = jobs.stdin, jobs.stdout

        def run() -> str:
            print(file=stdin, flush=True)
            said, ended = stdout.readline().strip(), stdout.readline().strip()
            assert ended == "ended with 7", said
            return said

        assert run() == "nothing"
        yield run
        stdin.close()


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
def test_an_edit_of_code_that_the_job_executes(
    clone: Path, interrupted: Callable[[], str], edited: str, expected: str
) -> None:
    with (clone / edited).open("a") as file:
        file.write("# a comment\n")
    assert interrupted() == expected
    assert interrupted() == "found"
