"""How good distilled predictors are: how far from where the base's sampler ends, beside Tweedie's estimate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import tables
from stages.report import sources
from stages.report.table import Cell, Table

ACCEPTED, ERROR = "probe_accepted", re.compile(r"probe_(student|tweedie)_(\d+)")
SHOWN = 6
"""Indices of the grid that the table shows, at most."""


@dataclass(frozen=True)
class Student:
    """One distilled model: mean squared errors on held-out prompts from states that enter index 0, 1, ... of the grid,
    and whether it is the nearer one at every index of the noisy half.
    """

    name: str
    errors: Sequence[float]
    tweedie: Sequence[float]
    accepted: bool

    @property
    def word(self) -> str:
        """What its acceptance test says."""
        better = [i for i, (own, other) in enumerate(zip(self.errors, self.tweedie, strict=True)) if own < other]
        half = len(self.errors) // 2
        nearer = sum(i < half for i in better)
        if self.accepted:
            return f"{self.name}: accepted, nearer than Tweedie's estimate at every index of the noisy half."
        return (
            f"{self.name}: not accepted, nearer than Tweedie's estimate at {nearer} of the {half} indices of the noisy "
            "half. Methods that use it may be worse off than with Tweedie's estimate."
        )


def read(folder: Path | None) -> list[Student]:
    """The students in the folder of encodings, by name: those whose training log holds an acceptance test."""
    found = []
    for path in sorted(folder.glob("*/train_log.parquet")) if folder else ():
        rows = tables.read(path, tables.TRAIN_LOG).to_pylist()
        last = {row["term"]: row["value"] for row in rows}
        if ACCEPTED not in last:
            continue
        errors: dict[str, dict[int, float]] = {"student": {}, "tweedie": {}}
        for term, value in last.items():
            if match := ERROR.fullmatch(term):
                errors[match[1]][int(match[2])] = value
        ordered = ([values[i] for i in sorted(values)] for values in errors.values())
        found.append(Student(path.parent.name, *ordered, accepted=bool(last[ACCEPTED])))
    return found


def table(students: Sequence[Student]) -> Table:
    """Errors at some indices, evenly spread over the grid; of students with several grids that of the first."""
    count = len(students[0].errors)
    shown = list(range(0, count, -(-count // SHOWN)))
    rows = [[Cell(one.name), *(_cell(one, i) for i in shown)] for one in students if len(one.errors) == count]
    return Table(["", *(f"index {i}" for i in shown)], rows)


def _cell(one: Student, i: int) -> Cell:
    kind = "number up" if one.errors[i] < one.tweedie[i] else "number"
    return Cell(
        f"{one.errors[i]:.4f}", f"Tweedie {one.tweedie[i]:.4f}", kind, source=f"{sources.of_student(one.name)}#{i}"
    )
