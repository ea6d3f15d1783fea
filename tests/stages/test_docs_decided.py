"""The YAML of docs/decided.md and docs/verdict.md is that of studies, and the costs named there are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.decided.settings import DecidedSettings
from stages.study import load

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [
    (page, yaml.safe_load(block))
    for page in ("decided", "verdict")
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / f"docs/{page}.md").read_text("utf-8"), re.DOTALL)
]


def merged(study: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The study with the keys of an example in place of its own, methods and strategies by name."""
    found = dict(study)
    for key, value in changes.items():
        deep = isinstance(value, dict) and isinstance(found.get(key), dict) and "kind" not in value
        found[key] = merged(found[key], value) if deep else value
    return found


@pytest.mark.parametrize(("page", "changes"), BLOCKS)
def test_examples_are_studies(
    page: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    study = yaml.safe_load((ROOT / "studies/shapes.yaml").read_text())
    if "figures" in changes.get("report", {}):
        study["decided"] = {"diversity": "attribute_diversity"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(merged(study, changes)))
    load(tmp_path / "study.yaml")


def test_every_page_has_examples() -> None:
    assert {page for page, _ in BLOCKS} == {"decided", "verdict"} and len(BLOCKS) == 5


def test_costs_are_those_of_the_examples() -> None:
    text = (ROOT / "docs/decided.md").read_text("utf-8")
    for _, changes in BLOCKS:
        section = changes.get("decided")
        if section and "indices" in section:
            made = DecidedSettings(**section)
            assert f"= {made.prompts * made.samples * made.evaluations(20):,} evaluations" in text
    made = DecidedSettings(diversity="x")
    assert f"{made.evaluations(20)} at\nT = 20" in text
    assert f"{made.prompts * made.samples * made.evaluations(20):,} evaluations" in text


def test_defaults_are_those_of_the_settings() -> None:
    text = (ROOT / "docs/decided.md").read_text("utf-8")
    for name, field in DecidedSettings.model_fields.items():
        assert f"`{name}`" in text, name
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"`{name}` ({field.default:g})" in text, name
