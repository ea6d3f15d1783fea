"""The strategy that docs/add-a-strategy.md adds works as the page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_sample import model as model  # a fixture
from test_search import job, made

import stages.sample.strategies
from stages import plugins
from stages.models.diffusion import DiffusionModel
from stages.sample.strategies import best_of_n

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-strategy.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's module beside the shipped ones, as far as imports can tell, under another name."""
    folder, name = tmp_path / "strategies", "of_the_page"
    folder.mkdir()
    (folder / f"{name}.py").write_text(blocks("python")[0])
    paths = [*stages.sample.strategies.__path__, str(folder)]
    monkeypatch.setattr(stages.sample.strategies.__spec__, "submodule_search_locations", paths)
    monkeypatch.setattr(stages.sample.strategies, "__path__", paths)
    plugins._files.cache_clear()
    yield name
    plugins._files.cache_clear()  # other tests do not know this strategy
    sys.modules.pop(f"stages.sample.strategies.{name}", None)


def test_the_page_shows_the_shipped_file():
    assert blocks("python") == [Path(best_of_n.__file__).read_text()]


def test_the_page_s_strategy_samples_the_base(model: DiffusionModel, tmp_path: Path, kind: str):
    entry: dict[str, Any] = yaml.safe_load(blocks("yaml")[0])["sample"]["strategies"]["best"]
    found = made(job(model, tmp_path / "study", {"best": entry, "mine": {**entry, "kind": kind}})[0], tmp_path)
    for setting, queries in (("n=1", 1), ("n=4", 4)):
        mine, shipped = found["base", "mine", setting], found["base", "best", setting]
        assert [row["image"] for row in mine] == [row["image"] for row in shipped]
        assert {row["queries"] for row in mine} == {queries}
    one, four = (found["base", "mine", setting] for setting in ("n=1", "n=4"))
    assert [row["image"] for row in one] != [row["image"] for row in four]
