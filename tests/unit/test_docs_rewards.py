"""The page on rewards and features: it lists every kind, and its examples are settings that are accepted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.measure.settings import MeasureSettings
from stages.params import validate
from stages.prepare.import_settings import ImportSettings
from stages.rewards import hps
from stages.rewards.base import known_kinds

PAGE = (Path(__file__).parents[2] / "docs" / "rewards-and-features.md").read_text()
BLOCKS = [
    yaml.safe_load(block.replace("<commit>", "abc")) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
]


def test_every_kind_stands_in_a_table() -> None:
    listed = set(
        re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("|")))
    )
    assert not set(known_kinds()) - listed


def test_examples_are_accepted() -> None:
    models: dict[str, Any] = {**BLOCKS[0]["prepare"]["import"], **BLOCKS[1]}
    assert len(models) == 6
    for name, values in models.items():
        for where, part in validate(ImportSettings, values, name).everything(name):
            assert part.kind in known_kinds(), where
    measured = validate(MeasureSettings, {"rewards": ["hps"], **BLOCKS[2]["measure"]}, "measure")
    assert measured.space == "inception"


@pytest.mark.parametrize("digest", hps.RELEASES)
def test_releases_are_told_apart_by_the_digests_on_the_page(digest: str) -> None:
    assert f"{hps.RELEASES[digest]} `{digest[:8]}...`" in PAGE
