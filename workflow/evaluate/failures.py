"""What failed jobs have said, from their logs: Snakemake, told to be brief, leaves it there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

REFUSED, RAISED = "error: ", "Traceback (most recent call last):"


def said(folder: Path, since: float) -> Iterator[str]:
    """The last line of every log below `folder` that was written after `since` (seconds since 1970) and ends in an
    error, behind the name of the log.
    """
    for file in sorted(folder.rglob("*.log")):
        if file.stat().st_mtime < since:
            continue
        text = file.read_text(encoding="utf-8", errors="replace").rstrip()
        last = text.rpartition("\n")[2]
        if last.startswith(REFUSED) or RAISED in text:
            yield f"{file}: {last}"
