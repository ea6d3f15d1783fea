"""Reading Parquet files from outside a few rows at a time, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import InputError
from stages.params import nearest

BATCH, TEXT_BATCH = 64, 4096
"""Rows in memory at once; an image may have megabytes, a row of texts and numbers has few bytes."""


def find(path: str, split: str = "") -> list[Path]:
    """The Parquet files meant by a file or a folder, in order of name; of a folder only those named `<split>-...`.

    Raises InputError when there are none.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    found = sorted(root.rglob(f"{split}-*.parquet" if split else "*.parquet"))
    if not found and split and root.is_dir():
        raise InputError(f"{path}: no files of split {split!r}, expected names such as {split}-00000-of-00004.parquet")
    if not found:
        raise InputError(f"{path}: no such file, expected a Parquet file or a folder of .parquet files")
    return found


def schema(file: Path) -> pa.Schema:
    """The columns of a file."""
    return _open(file).schema_arrow


def count(files: Sequence[Path]) -> int:
    """Rows in all files together."""
    return sum(_open(file).metadata.num_rows for file in files)


def all_null(file: Path, column: str) -> bool:
    """Whether a column is known to hold nothing: of the null type, or without a value by the file's own statistics."""
    parquet = _open(file)
    place = next(n for n in range(len(parquet.schema)) if parquet.schema.column(n).path.split(".")[0] == column)
    if pa.types.is_null(parquet.schema_arrow.field(column).type):
        return True
    groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
    stats = [(group.num_rows, group.column(place).statistics) for group in groups]
    return bool(stats) and all(stat is not None and stat.null_count == rows for rows, stat in stats)


def rows(file: Path, keys: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered rows with the columns that `keys` ask for. Raises InputError when one of them is not there."""
    parquet = _open(file)
    columns = list(dict.fromkeys(_column(file, parquet.schema_arrow.names, key) for key in keys))
    number = 0
    try:
        for batch in parquet.iter_batches(batch_size=_batch(parquet, columns), columns=columns):
            for values in batch.to_pylist():
                number += 1
                yield number, values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}, after row {number}: cannot be read on: {error}") from None


def _batch(parquet: pq.ParquetFile, columns: Sequence[str]) -> int:
    kinds = (parquet.schema_arrow.field(column).type for column in columns)
    heavy = any(pa.types.is_nested(k) or pa.types.is_binary(k) or pa.types.is_large_binary(k) for k in kinds)
    return BATCH if heavy else TEXT_BATCH


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
