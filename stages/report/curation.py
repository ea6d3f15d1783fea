"""What curation kept, and how well every reward agrees with the curated preferences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from stages.about import spelled
from stages.errors import InputError
from stages.params import Settings, validate
from stages.report import sources
from stages.report.look import Look
from stages.report.settings import ReportStudy
from stages.report.table import Cell, Table


class _Read(Settings):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class FilterCount(_Read):
    """Rows that one filter removed."""

    name: str = Field(alias="filter")
    removed: int


class TableCount(_Read):
    """Rows of one table before, between and after the filters; rows kept by split."""

    entered: int = Field(alias="in")
    filters: tuple[FilterCount, ...]
    left: int = Field(alias="out")
    splits: dict[str, int]


class Manifest(_Read):
    """The counts of curation."""

    tables: dict[str, TableCount]


def manifest(path: Path) -> Manifest:
    """Read `manifest.json`; raises InputError where it is missing or is something else."""
    return validate(Manifest, read_json(path, "the counts that curate writes"), str(path))


def curation_table(counts: Manifest) -> Table:
    """One row per table: rows in, what each filter removed, rows out by split."""
    rows = []
    for name, count in counts.tables.items():
        removed = [f"{spelled(step.name)} {step.removed}" for step in count.filters if step.removed]
        applied = f"{len(count.filters)} filters applied"
        splits = " · ".join(f"{split} {number}" for split, number in count.splits.items())
        key = sources.of_table(name)
        rows.append(
            [
                Cell(spelled(name)),
                Cell(f"{count.entered}", source=f"{key}#in"),
                Cell(", ".join(removed) or "nothing", applied, source=f"{key}#removed"),
                Cell(f"{count.left}", splits if len(count.splits) > 1 else "", source=f"{key}#out"),
            ]
        )
    return Table(["table", "rows in", "removed by filters", "rows kept"], rows)


def read_json(path: Path, expected: str) -> Any:
    """A JSON file from outside; `expected` says what it should hold."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (expected {expected})") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON (expected {expected}): {error}") from None


class Accuracy(_Read):
    """How often a reward prefers what people preferred, on validation pairs and on training pairs."""

    reward: str
    pairs: int
    accuracy: float | None
    low: float | None
    high: float | None
    train_pairs: int
    train_accuracy: float | None
    train_low: float | None
    train_high: float | None


def accuracies(study: ReportStudy, scores: Path) -> list[Accuracy]:
    """The pair accuracy of every scored reward; raises InputError where one is missing or is something else."""
    found = []
    for name in study.score.rewards:
        path = scores / f"{name}.json"
        one = validate(Accuracy, read_json(path, "the pair accuracy that score writes"), str(path))
        if one.reward != name:
            raise InputError(f"{path}: the pair accuracy of {one.reward!r}, expected that of {name!r}")
        found.append(one)
    return found


def accuracy_table(look: Look, found: list[Accuracy]) -> Table:
    """One row per reward, validation and training pairs side by side."""
    rows = []
    for one in found:
        key = sources.of_accuracy(one.reward)
        validation = _share(one.accuracy, one.low, one.high, one.pairs, f"{key}#val")
        training = _share(one.train_accuracy, one.train_low, one.train_high, one.train_pairs, f"{key}#train")
        role = look.role(one.reward) if one.reward in look.rewards else ""
        rows.append([Cell(spelled(one.reward), role), validation, training])
    return Table(["reward", "on validation pairs", "on training pairs"], rows)


def _share(mean: float | None, low: float | None, high: float | None, pairs: int, source: str) -> Cell:
    if mean is None:
        return Cell("–", "no pairs with a majority")
    between = f"{100 * low:.1f} to {100 * high:.1f} %, " if low is not None and high is not None else ""
    return Cell(f"{100 * mean:.1f} %", f"{between}{pairs} pairs", source=source)
