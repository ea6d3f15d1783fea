"""A table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Text, a second smaller line, a CSS class, and a colour for a mark before the text.

    `number` names the finding that the cell shows, for `python -m stages.audit`: its key, with `#seeds`, `#note`,
    `#least`, `#mean` or `#all` where the cell shows that of it and not the value with its interval, `#was` and `#grown`
    where it shows the number of an earlier report or the difference to it. `source` does the same for a number that is
    no finding (`stages/report/sources.py`): a key there, with `#` and which of its numbers.
    """

    text: str
    sub: str = ""
    kind: str = ""
    dot: str = ""
    number: str = ""
    source: str = ""


NOTHING = Cell("–")


@dataclass(frozen=True)
class Table:
    """A table of the page; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
