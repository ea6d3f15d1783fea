"""What makes a job run again besides its data: the code that it executes and the settings that it reads.

Both reach Snakemake as small files, *stamps*, that are written anew when their content changes. So file times alone
decide, and Snakemake and DVC can agree (see `workflow/dvc_sync.py`); and neither a new time on an old file, as git
gives it, nor an edit while a job runs can mislead.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(".snakemake/stamps")


@cache
def code(stage: str) -> Mapping[str, str]:
    """Digest of every file of code that a stage executes: what `deps` in dvc.yaml name, folders file by file.

    Once a stage and process: a study has thousands of jobs of a stage.
    """
    files = []
    for path in map(Path, _modules()[stage]):
        # what begins with a dot is an editor's, not code
        found = [path] if path.is_file() else [file for file in path.rglob("[!.]*") if file.is_file()]
        files += sorted(str(file) for file in found if "__pycache__" not in file.parts)
    return {file: _digest(file) for file in files}


def all_code() -> list[str]:
    """Files of code that any stage executes."""
    return sorted({file for stage in _modules() for file in code(stage)})


@cache
def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


@cache
def _modules() -> dict[str, list[str]]:
    """By stage, modules and packages among the `deps` in dvc.yaml."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    deps = {name: stage.get("do", stage)["deps"] for name, stage in stages.items()}
    return {name: [path for path in paths if path.startswith("stages/")] for name, paths in deps.items()}


def values(study: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """What stands in the study file under each dotted key; a key that is not there has the value None."""
    found = {}
    for key in keys:
        value: Any = study
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found[key] = value
    return found


def stamps(study: str, job: str) -> Path:
    """The folder of a job's stamps (`finetune@refl-s0`, as DVC calls it).

    One a job: Snakemake lists a file's folder once while planning, and would not see a stamp written later.
    """
    return FOLDER / study / job


def stamp(path: Path, content: Mapping[str, Any], built: bool = False, planning: bool = False) -> str:
    """A file that holds `content` and is newer than the job's outputs if they were made with another; returns its path.

    `built` says that the outputs are known to be made with this content: the file then counts as old. While only
    planning, a change is written beside the real stamp, so that going back on it leaves no trace.
    """
    text = json.dumps(content, sort_keys=True, indent=1) + "\n"
    if _text(path) == text:
        return str(path)
    if planning:
        path = path.with_suffix(".planned")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if built:
        os.utime(path, (1, 1))
    return str(path)


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
