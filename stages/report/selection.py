"""What the steps of `select` did to the pairs that methods learn from, as its manifest counts it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field

from stages.about import spelled
from stages.errors import InputError
from stages.params import Settings, validate
from stages.report import sources
from stages.report.curation import read_json
from stages.report.settings import ReportStudy
from stages.report.table import NOTHING, Cell, Table

COLUMNS = {
    "removed": "removed", "relabelled": "other label", "exchanged": "other winner", "reweighted": "other weight",
    "ties": "ties", "left": "pairs left",
}  # fmt: skip
"""Counts of a step, and what the page calls them."""


class _Read(Settings):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class StepCount(_Read):
    """Training pairs that one step removed; of those that it left, how many it changed in which way, and ties."""

    name: str = Field(alias="step")
    removed: int
    relabelled: int
    exchanged: int
    reweighted: int
    ties: int
    left: int


class Selection(_Read):
    """Training pairs before, between and after the steps."""

    entered: int = Field(alias="in")
    steps: tuple[StepCount, ...]
    left: int = Field(alias="out")


def read(study: ReportStudy, path: Path | None) -> Selection | None:
    """The counts of the study; None where it has no section `select`. Raises InputError where no file is given, or it
    is missing or something else.
    """
    if not study.select:
        return None
    if path is None:
        raise InputError("--select: the study has a section `select`; expected its manifest")
    return validate(Selection, read_json(path, "the counts that select writes"), str(path))


def table(found: Selection) -> Table:
    """One row for the curated pairs, then one per step."""
    rows = [[Cell("curated"), *[NOTHING] * (len(COLUMNS) - 1), Cell(f"{found.entered}", source=_key(0, "left"))]]
    for place, step in enumerate(found.steps, start=1):
        counts = [Cell(f"{getattr(step, name)}", source=_key(place, name)) for name in COLUMNS]
        rows.append([Cell(spelled(step.name)), *counts])
    return Table(["step", *COLUMNS.values()], rows)


def _key(place: int, column: str) -> str:
    return f"{sources.of_step(place)}#{column}"
