"""What lies in a source and is no row of it: counted by its reason, with the first few examples."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stages.walk import Unread

EXAMPLES = 5


@dataclass
class Step:
    """A count of what one filter or reason removed, and the first few of them."""

    removed: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more."""
        self.removed += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example.encode(errors="backslashreplace").decode())  # names on disk need not be UTF-8


class LeftOut:
    """Counts by reason. Files may be put down as left out ahead, and taken away again when they are read after all."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}
        self._ahead: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Count something that is not read."""
        self._steps.setdefault(reason, Step()).add(name)

    def add_unread(self, unread: Iterable[Unread]) -> None:
        """Count what a search of a folder did not read."""
        for each in unread:
            self.add(str(each.path), each.reason)

    def unless_read(self, files: Iterable[Path], reason: str = "") -> None:
        """Count these files at the end, but for those that are `read` until then; without `reason` by their suffix."""
        for file in files:
            self._ahead[os.path.normpath(file)] = reason or f"not read ({file.suffix.lower() or 'no suffix'})"

    def read(self, file: Path) -> None:
        """Note that a file is read."""
        if self._ahead:
            self._ahead.pop(os.path.normpath(file), None)

    def counts(self) -> dict[str, Step]:
        """What was left out, by reason."""
        for file, reason in self._ahead.items():
            self.add(file, reason)
        self._ahead.clear()
        return self._steps
