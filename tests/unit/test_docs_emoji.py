"""The page on the emoji world: its example is accepted, and it explains every key of the sources."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from stages.curate.settings import CurateSettings
from stages.emoji import settings
from stages.params import validate

PAGE = (Path(__file__).parents[2] / "docs" / "emoji-world.md").read_text()


def test_the_example_is_accepted() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    made = validate(CurateSettings, yaml.safe_load(block)["curate"], "curate")
    assert {source.kind for source in made.sources} == {"emoji"}


def test_every_key_of_the_sources_is_explained() -> None:
    classes = (settings.EmojiImages, settings.EmojiPrompts, settings.EmojiPairs)
    keys = {key for model in classes for key in model.model_fields} - {"kind", "name", "limit"}
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert keys <= set(re.findall(r"`(\w+)`", " ".join(rows)))
