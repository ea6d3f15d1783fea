"""Code of one's own that a study names is part of the model: its file, and what that imports from beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages import own_code
from stages.errors import InputError
from stages.models.record import ModelRecord
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.rewards.base import load_reward


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two modules and a package of one's own."""
    judge = "import numpy\nfrom own_parts import sizes\nfrom own_parts.deep import more\n\n"
    (tmp_path / "own_judge.py").write_text(
        f"{judge}def score(images, prompts):\n    return [sizes.one()] * len(images)\n"
    )
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "sizes.py").write_text("from . import units\n\ndef one():\n    return units.ONE\n")
    (tmp_path / "own_parts" / "units.py").write_text("ONE = 1.0\n")
    (tmp_path / "own_parts" / "deep").mkdir()
    (tmp_path / "own_parts" / "deep" / "__init__.py").write_text("more = 2\n")
    (tmp_path / "own_parts" / "unused.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


FOLLOWED = {"own_judge.py", "own_parts/sizes.py", "own_parts/units.py", "own_parts/deep/__init__.py"}


def record(function: str, **of: Any) -> ModelRecord:
    """The record of a model that calls a function."""
    settings = ImportSettings.model_validate({"kind": "python", "options": {"function": function}} | of)
    return import_model("mine", settings, "s.yaml: prepare.import.mine")


def test_a_model_is_known_by_the_code_of_its_function(folder: Path) -> None:
    made = record("own_judge:score")
    assert set(made.files) == FOLLOWED and made.path == "."
    for name in FOLLOWED:
        file = folder / name
        before = file.read_text()
        file.write_text(before + "# changed\n")
        assert record("own_judge:score").digest != made.digest, name
        with pytest.raises(InputError, match=f"{name}: changed since model 'mine' was recorded"):
            load_reward(made)
        file.write_text(before)
    (folder / "own_parts" / "unused.py").write_text("# changed\n")
    assert record("own_judge:score").digest == made.digest
    load_reward(made)


def test_of_a_model_made_of_others_too(folder: Path) -> None:
    parts = {"of": {"inner": {"kind": "python", "options": {"function": "own_judge:score"}}}}
    settings = ImportSettings.model_validate({"kind": "hinge", "options": {"limit": 1.0}} | parts)
    made = import_model("mine", settings, "s.yaml: prepare.import.mine")
    (folder / "own_parts" / "units.py").write_text("ONE = 2.0\n")
    assert import_model("mine", settings, "s.yaml: prepare.import.mine").digest != made.digest


def test_of_an_installed_module_its_own_file_counts() -> None:
    made = record("PIL.ImageStat:Stat")
    assert list(made.files) == ["PIL/ImageStat.py"]
    assert record("json:dumps").files.keys() == {"json/__init__.py"}
    assert not record("math:sqrt").files  # no source


@pytest.mark.parametrize("module", ["own_judgge", "own_parts.nothing", "json.nothing"])
def test_a_module_that_is_not_there_is_refused_by_its_key(folder: Path, module: str) -> None:
    with pytest.raises(InputError, match=rf"s.yaml: mine.options.function: there is no module '{module}' in "):
        own_code.of_model("python", {"function": f"{module}:score"}, "s.yaml: mine")


def test_a_function_that_is_not_there_is_refused_by_its_key(folder: Path) -> None:
    with pytest.raises(InputError, match=r"s.yaml: mine.options.function: .*own_judge.py defines no 'scores'"):
        own_code.of_model("python", {"function": "own_judge:scores"}, "s.yaml: mine")
    (folder / "own_judge.py").write_text("from own_parts.deep import *\n")
    assert own_code.of_model("python", {"function": "own_judge:more"}, "") is not None


def test_code_that_is_not_python_is_refused_with_its_line(folder: Path) -> None:
    (folder / "own_parts" / "units.py").write_text("ONE = 1.0\nTWO =\n")
    with pytest.raises(InputError, match=r"mine.options.function: .*own_parts/units.py, line 2: not valid Python"):
        own_code.of_model("python", {"function": "own_judge:score"}, "s.yaml: mine")


def test_other_kinds_have_none() -> None:
    assert own_code.of_model("jpeg", {"function": "nowhere:f"}, "") is None
    assert own_code.of_model("python", {}, "") is None
