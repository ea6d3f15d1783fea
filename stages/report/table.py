"""A table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Text, a second smaller line, a CSS class, and a colour for a mark before the text.

    `number` names the finding that the cell shows, for `python -m stages.audit`: its key, with `#seeds`, `#note` or
    `#all` where the cell shows that of it and not the value with its interval.
    """

    text: str
    sub: str = ""
    kind: str = ""
    dot: str = ""
    number: str = ""


NOTHING = Cell("–")


@dataclass(frozen=True)
class Table:
    """A table of the page; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
