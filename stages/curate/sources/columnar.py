"""Reading Parquet and Arrow files from outside a few rows at a time, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages import contents, walk
from stages.curate.left_out import LeftOut
from stages.curate.sources import saved, shards
from stages.errors import InputError
from stages.params import nearest
from stages.places import is_folder

PARQUET = ".parquet"
SUFFIXES = (PARQUET, ".arrow", ".feather")
BATCH, TEXT_BATCH = 64, 4096
"""Rows in memory at once; an image may have megabytes, a row of texts and numbers has few bytes."""


@dataclass(frozen=True)
class Shards:
    """The files of one table, and what else lies in their folder."""

    files: Sequence[Path]
    left_out: LeftOut = field(default_factory=LeftOut)


def is_table(path: str | Path) -> bool:
    """Whether a file is of a columnar format by its name, or a folder, whose files may be."""
    return Path(path).suffix.lower() in SUFFIXES or is_folder(path)


def find(path: str, split: str = "") -> Shards:
    """The Parquet or Arrow files meant by a file or a folder, in order of name; of a folder only those named
    `<split>-...`. Links to folders are followed.

    A folder may be one that `save_to_disk` of datasets wrote. Raises InputError when there are none.
    """
    root = Path(path)
    if root.is_file():
        return Shards([root])
    if not root.exists() and (matching := walk.matching(path)):
        return Shards(matching)
    if not root.is_dir():
        raise InputError(f"{path}: no such file, expected a Parquet file or a folder of .parquet files")
    if (root / saved.SPLITS).is_file():
        root = saved.split_folder(root, split)
    if (root / saved.STATE).is_file():
        files, left_out = saved.data_files(root), LeftOut()
        below = walk.search(root)
        left_out.unless_read(below.files)
        for file in [*files, *(root / name for name in saved.OWN)]:
            left_out.read(file)
        left_out.add_unread(below.unread)
        return Shards(files, left_out)
    return _parts(root, split)


def _parts(root: Path, split: str) -> Shards:
    """The Parquet files below a folder."""
    found, left_out = walk.search(root), LeftOut()
    left_out.add_unread(found.unread)
    tables = [file for file in found.files if file.suffix.lower() == PARQUET]
    wanted = [file for file in tables if file.name.startswith(f"{split}-" if split else "")]
    if not wanted and tables:
        raise InputError(f"{root}: no files of split {split!r}, expected names such as {split}-00000-of-00004.parquet")
    if not wanted:
        kinds = sorted({file.suffix.lower() or "no suffix" for file in found.files})
        holds = f"only files with {', '.join(kinds[:5])}" if kinds else "no files"
        raise InputError(f"{root}: holds {holds}, expected .parquet files; another list or table is named by its file")
    shards.require_one_set(root, wanted, left_out)
    left_out.unless_read(set(tables) - set(wanted), f"not of split {split!r}")
    left_out.unless_read(sorted(set(found.files) - set(tables)))
    return Shards(wanted, left_out)


def schema(file: Path) -> pa.Schema:
    """The columns of a file."""
    return _open(file).schema_arrow


def count(files: Sequence[Path]) -> int:
    """Rows in all files together."""
    return sum(_rows(_open(file)) for file in files)


def _rows(opened: pq.ParquetFile | saved.ArrowFile) -> int:
    return opened.num_rows if isinstance(opened, saved.ArrowFile) else opened.metadata.num_rows


def all_null(file: Path, column: str) -> bool:
    """Whether a column is known to hold nothing: of the null type, or without a value by the file's own statistics."""
    parquet = _open(file)
    if pa.types.is_null(parquet.schema_arrow.field(column).type):
        return True
    if isinstance(parquet, saved.ArrowFile):
        return False
    place = next(n for n in range(len(parquet.schema)) if parquet.schema.column(n).path.split(".")[0] == column)
    groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
    stats = [(group.num_rows, group.column(place).statistics) for group in groups]
    return bool(stats) and all(stat is not None and stat.null_count == rows for rows, stat in stats)


def rows(file: Path, keys: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered rows with the columns that `keys` ask for. Raises InputError when one of them is not there."""
    parquet = _open(file)
    columns = list(dict.fromkeys(_column(file, parquet.schema_arrow.names, key) for key in keys))
    for column in columns:
        _require_zone(file, column, parquet.schema_arrow.field(column).type)
    number = 0
    try:
        for batch in parquet.iter_batches(batch_size=_batch(parquet, columns), columns=columns):
            for values in batch.to_pylist():
                number += 1
                yield number, values
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # such as a date beyond those of Python
        raise InputError(f"{file}, after row {number}: cannot be read on: {error}") from None


def _require_zone(file: Path, column: str, kind: pa.DataType) -> None:
    """Raise InputError for times of a zone that is not known here. They are not read in UTC instead: groups, and so the
    splits, would be others than on a machine that knows the zone.
    """
    if pa.types.is_timestamp(kind) and kind.tz:
        try:
            pa.scalar(0, kind).as_py()
        except pa.ArrowException:
            raise InputError(
                f"{file}: column {column!r} has times of the zone {kind.tz!r}, which is not known on this machine;"
                " install the package tzdata, or write the column in UTC"
            ) from None


def _batch(parquet: pq.ParquetFile | saved.ArrowFile, columns: Sequence[str]) -> int:
    kinds = (parquet.schema_arrow.field(column).type for column in columns)
    heavy = any(pa.types.is_nested(k) or pa.types.is_binary(k) or pa.types.is_large_binary(k) for k in kinds)
    return BATCH if heavy else TEXT_BATCH


def _column(file: Path, names: Sequence[str], key: str) -> str:
    """The column of `key`, which may reach into a list or struct: `file_path.0`."""
    found = next((name for name in (key, key.split(".")[0]) if name in names), None)
    if found is not None and names.count(found) > 1:
        raise InputError(f"{file}: two columns are called {found!r}, expected one of each name")
    if found is None:
        raise InputError(f"{file}: there is no column {key!r}{nearest(key, names)}")
    return found


def _open(file: Path) -> pq.ParquetFile | saved.ArrowFile:
    try:
        return (
            saved.ArrowFile(file)
            if file.suffix.lower() in SUFFIXES[1:]
            else pq.ParquetFile(file, page_checksum_verification=True)
        )
    except UnicodeEncodeError:
        raise InputError(f"{file}: its name is not UTF-8; rename it") from None
    except (pa.ArrowException, OSError) as error:
        found = contents.stand_in(contents.head(file)) if file.is_file() else ""
        reason = f"it is {found}" if found else " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not a readable {file.suffix[1:].capitalize()} file: {reason}") from None
