"""What a plug-in's module lacks is said in one line when the study is checked, and not by the job that would use it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import gives, plugins
from stages.errors import InputError
from stages.study import load

SMOKE = Path(__file__).parents[2] / "studies/smoke.yaml"
MODULE = "odd_plugin"
STRATEGY = """
from stages.sample.search import Search

class Settings(Search):
    def points(self):
        return []
"""
MIXING = "from stages.sample.mixing import Mixing as Settings"
REWARD = "from stages.gives import Gives\nGIVES = {}\ndef load(record, device): ..."
METRIC = "def metric(images): ..."


def strategy(study: dict[str, Any], kind: str) -> None:
    study["sample"]["strategies"]["odd"] = {"kind": kind, "reward": "proxy"}


def reward(study: dict[str, Any], kind: str) -> None:
    study["prepare"]["import"]["odd"] = {"kind": kind}


def metric(study: dict[str, Any], kind: str) -> None:
    study["measure"]["set_metrics"] = [kind]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Checks the smoke study with an entry of kind `odd`, which the module of this source is installed as."""

    def check(group: str, source: str, enter: Callable[[dict[str, Any], str], None], target: str = MODULE) -> None:
        (tmp_path / f"{MODULE}.py").write_text(source)
        (tmp_path / "odd-1.0.dist-info").mkdir()
        (tmp_path / "odd-1.0.dist-info/entry_points.txt").write_text(f"[imagerefl.{group}]\nodd = {target}\n")
        (tmp_path / "odd-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        study = yaml.safe_load(SMOKE.read_text())
        enter(study, "odd")
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        plugins._entry_points.cache_clear()
        gives.declared.cache_clear()
        load(tmp_path / "study.yaml")

    yield check
    plugins._entry_points.cache_clear()
    gives.declared.cache_clear()
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize(
    ("group", "source", "enter", "message"),
    [
        ("strategies", "", strategy, "has no Settings of a strategy, expected a subclass of Mixing, Search or"),
        ("strategies", "class Settings: ...", strategy, "has no Settings of a strategy"),
        ("strategies", STRATEGY, strategy, "of kind 'odd': its Settings lack find"),
        ("strategies", MIXING, strategy, "of kind 'odd': its Settings lack points, predict"),
        ("rewards", "", reward, "reward kind 'odd': its module has no function load(record, device)"),
        ("rewards", "class Odd:\n    def load(self): ...", reward, "has no function load(record, device)"),
        ("rewards", REWARD.format('Gives(fils="none")'), reward, "GIVES: unknown word 'fils'; did you mean 'files'?"),
        ("rewards", REWARD.format("Gives(files=NONE)"), reward, "GIVES: expected Gives(...) with its values written"),
        ("metrics", METRIC, metric, "measure.set_metrics: 'odd': expected SCOPE image, prompt or set and a function"),
        ("metrics", 'SCOPE = "set"', metric, "expected SCOPE image, prompt or set and a function metric"),
        ("metrics", f'SCOPE = "images"\n{METRIC}', metric, "expected SCOPE image, prompt or set and a function metric"),
    ],
)
def test_it_is_refused(
    group: str, source: str, enter: Callable[[dict[str, Any], str], None], message: str, checked: Callable[..., None]
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as found:
        checked(group, source, enter)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("group", "source", "enter", "target"),
    [
        ("rewards", "try:\n    import fast as load\nexcept ImportError:\n    load = None", reward, MODULE),
        ("rewards", "from elsewhere import load", reward, MODULE),
        ("rewards", "from elsewhere import *", reward, MODULE),
        ("rewards", "class Kinds: ...", reward, f"{MODULE}:Kinds"),
        ("metrics", "SCOPE, RANGE = 'prompt', (0, 1)\nmetric = max", metric, MODULE),
        ("metrics", "SCOPE: str = scopes()\nfrom elsewhere import metric", metric, MODULE),
    ],
)
def test_what_cannot_be_known_from_its_source_passes(
    group: str, source: str, enter: Callable[[dict[str, Any], str], None], target: str, checked: Callable[..., None]
) -> None:
    checked(group, source, enter, target)
