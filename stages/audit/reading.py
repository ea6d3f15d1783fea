"""The files of a finished study, read without the stages that wrote them; a refusal is one line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa

from stages.errors import InputError

Frame: TypeAlias = Any  # a pandas data frame; its type stubs know too little of the columns
SECTIONS = ("study", "methods", "runs", "score", "sample", "measure", "report")
"""Sections of a study file that the audit reads."""


def read(*paths: Path, columns: list[str] | None = None) -> Frame:
    """The rows of Parquet files, one below another."""
    return pd.concat([_read(path, lambda file: pd.read_parquet(file, columns=columns)) for path in paths])


def read_csv(path: Path) -> Frame:
    """The rows of a table of the report."""
    return _read(path, pd.read_csv)


def read_json(path: Path) -> Any:
    """The object in a JSON file."""

    def parsed(file: Path) -> Any:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("expected a JSON object")
        return found

    return _read(path, parsed)


def query(path: Path, text: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows that an SQLite database answers."""

    def ask(file: Path) -> list[tuple[Any, ...]]:
        with sqlite3.connect(file) as opened:
            return opened.execute(text, values).fetchall()

    return _read(path, ask)


def require_sections(study: Mapping[str, Any], where: Path) -> None:
    """Raise InputError where the study file lacks a section that the audit reads."""
    for name in SECTIONS:
        if not isinstance(study.get(name), Mapping):
            raise InputError(f"{where}: {name}: expected a section of a study; check it with `python -m stages.study`")


@contextmanager
def complete(out: Path) -> Iterator[None]:
    """What the results in `out` lack becomes an InputError: they are of another study, or of a part of it."""
    try:
        yield
    except KeyError as error:
        what = " ".join(map(str, error.args[0])) if isinstance(error.args[0], tuple) else error.args[0]
        raise InputError(f"{out}: nothing of {what!r} here, though the study has it; run the study first") from None


def _read(path: Path, by: Callable[[Path], Any]) -> Any:
    if path.is_dir():
        raise InputError(f"{path}: cannot be read: it is a folder")
    try:
        return by(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the results of a finished study") from None
    except (OSError, ValueError, sqlite3.Error, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
