"""docs/troubleshooting.md quotes messages that the code really gives: their fixed text stands in the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/troubleshooting.md"
OTHERS = "## Messages of other programs"
GAP = "\0"
"""Stands for what a message fills in."""


def quoted() -> list[str]:
    """The messages of this project in the first column, in backticks; a row without any is a symptom."""
    own = PAGE.read_text(encoding="utf-8").split(OTHERS)[0]
    rows = (line.split("|")[1] for line in own.splitlines() if line.startswith("| `"))
    return [re.findall(r"`([^`]*)`", row)[0] for row in rows]


def texts() -> Iterator[str]:
    """Every text in the sources, with a gap for each value that is filled in."""
    for folder in ("stages", "workflow"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(p.value) if isinstance(p, ast.Constant) else GAP for p in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
        for file in (ROOT / folder).rglob("*.smk"):
            yield re.sub(r'"\s*\n\s*f?"', "", re.sub(r"\{[^}]*\}", GAP, file.read_text(encoding="utf-8")))


@cache
def sources() -> tuple[str, ...]:
    """All of them."""
    return tuple(texts())


def parts(message: str) -> list[str]:
    """The fixed parts of a message."""
    return [part.strip(" ,;") for part in message.split("...") if len(part.strip(" ,;")) > 2]


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_stands_in_the_sources(message: str) -> None:
    pattern = re.compile(".*".join(map(re.escape, parts(message))), re.DOTALL)
    assert any(pattern.search(text) for text in sources()), f"no source says {message!r}"


def test_many_messages_are_quoted() -> None:
    assert len(quoted()) > 25


def test_pages_that_it_names_are_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / link).is_file(), link
