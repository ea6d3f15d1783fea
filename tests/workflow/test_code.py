"""What dvc.yaml calls the code of a stage is what the stage imports: nothing is missing, nothing is too much.

`stages/lineage` is left out on purpose: it observes jobs and does not change what they make, so editing it reruns none.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from imports import Sources
from project import ROOT

OBSERVERS = ("stages.lineage",)
ENTRIES = {
    "curate": ("curate", ()),
    "prepare_import": ("prepare", ("_import",)),
    "prepare_vae": ("prepare", ("_vae",)),
    "prepare_base": ("prepare", ("_base",)),
    "prepare_clip": ("prepare", ("_clip",)),
    "prepare_consistency": ("prepare", ("_consistency",)),
    "score": ("score", ()),
    "encode": ("encode", ()),
    "finetune": ("finetune", ()),
    "sample_base": ("sample", ()),
    "sample": ("sample", ()),
    "measure_reference": ("measure", ()),
    "measure_base": ("measure", ()),
    "measure": ("measure", ()),
    "report": ("report", ()),
}
"""By stage of dvc.yaml: the package it runs, and the functions of its `__main__` where only some of it is used."""

DECLARED = {
    name: [path for path in stage.get("do", stage)["deps"] if path.startswith("stages/")]
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}


def test_every_stage_has_an_entry() -> None:
    assert ENTRIES.keys() == DECLARED.keys()


@pytest.mark.parametrize("stage", ENTRIES)
def test_declared_code_is_imported_code(stage: str) -> None:
    package, functions = ENTRIES[stage]
    imported = Sources(ROOT).closure(f"stages.{package}.__main__", functions, OBSERVERS)
    own = f"stages/{package}"
    missing = sorted(file for file in imported if not any(_holds(path, file) for path in DECLARED[stage]))
    surplus = sorted(path for path in DECLARED[stage] if path != own and not set(_files(path)) <= imported)
    assert not missing, f"dvc.yaml: {stage}: deps lack {missing}"
    assert not surplus, f"dvc.yaml: {stage}: deps name {surplus}, of which {stage} does not import everything"


def test_closure_follows_what_runs_and_nothing_else(tmp_path: Path) -> None:
    """Imports in functions and plug-ins count; those for type checkers and in unused functions do not."""
    files = {
        "a/__init__.py": "",
        "a/__main__.py": "from typing import TYPE_CHECKING\nfrom stages import plugins\nfrom . import near\n"
        "if TYPE_CHECKING:\n    from stages import types\n"
        "def used():\n    import stages.late\ndef main():\n    used()\n    plugins.load('stages.kinds', 'x')\n"
        "def unused():\n    import stages.never\n",
        "a/near.py": "import stages.watcher.core\n",
        "kinds/__init__.py": "",
        "kinds/one.py": "from stages.deep import thing\n",
        "watcher/core.py": "import stages.never\n",
        "__init__.py": "", "plugins.py": "", "types.py": "", "late.py": "", "never.py": "", "deep.py": "thing = 1\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / "stages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stages" / name).write_text(text)
    found = Sources(tmp_path).closure("stages.a.__main__", ("main",), ("stages.watcher",))
    expected = {"a/__main__.py", "a/near.py", "plugins.py", "late.py", "kinds/one.py", "deep.py"}
    assert found == {f"stages/{name}" for name in expected}


def _holds(path: str, file: str) -> bool:
    return path == file or file.startswith(f"{path}/")


def _files(path: str) -> list[str]:
    """The modules that a declared path stands for; an empty `__init__.py` says nothing."""
    if path.endswith(".py"):
        return [path]
    found = [file for file in (ROOT / path).rglob("*.py") if file.name != "__init__.py" or file.read_text().strip()]
    return [str(file.relative_to(ROOT)) for file in found]
