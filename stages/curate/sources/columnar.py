"""Reading Parquet files from outside a few rows at a time, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import InputError
from stages.params import nearest

BATCH = 64
"""Rows in memory at once; an image may have megabytes."""


def find(path: str) -> list[Path]:
    """The Parquet files meant by a file or a folder, in order of name. Raises InputError when there are none."""
    root = Path(path)
    if root.is_file():
        return [root]
    found = sorted(root.rglob("*.parquet"))
    if not found:
        raise InputError(f"{path}: no such file, expected a Parquet file or a folder of .parquet files")
    return found


def count(files: Sequence[Path]) -> int:
    """Rows in all files together."""
    return sum(_open(file).metadata.num_rows for file in files)


def rows(file: Path, keys: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered rows with the columns that `keys` ask for. Raises InputError when one of them is not there."""
    parquet = _open(file)
    columns = list(dict.fromkeys(_column(file, parquet.schema_arrow.names, key) for key in keys))
    number = 0
    try:
        for batch in parquet.iter_batches(batch_size=BATCH, columns=columns):
            for values in batch.to_pylist():
                number += 1
                yield number, values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}, after row {number}: cannot be read on: {error}") from None


def _column(file: Path, names: Sequence[str], key: str) -> str:
    """The column of `key`, which may reach into a list or struct: `file_path.0`."""
    found = next((name for name in (key, key.split(".")[0]) if name in names), None)
    if found is None:
        raise InputError(f"{file}: there is no column {key!r}{nearest(key, names)}")
    return found


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file: {error}"[:300]) from None
