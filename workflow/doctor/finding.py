"""One line of what the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """`what` was looked at, and what was found; only `missing` keeps the study from running."""

    mark: Mark
    what: str
    found: str

    def __str__(self) -> str:
        return f"  {self.mark:<8}{self.what:<17} {self.found}"
