"""One job's batches shared out among several jobs, and the files of all of them read in the order of one job.

Every job takes every n-th batch. Batches are cut as for one job, so what is made of them is the same bytes for any
number of shards. Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from stages import tables
from stages.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Shard `number` (from 1) of `count`."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard written as `2/4`; raises InputError for anything else."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        shard = cls(*map(int, found.groups())) if found else cls(0)
        if not 1 <= shard.number <= shard.count:
            raise InputError(f"--shard {text}: expected a shard and their number, like 2/4")
        return shard

    def marked(self, schema: pa.Schema, **more: str) -> pa.Schema:
        """`schema` with the shard, where there are several, and `more` in its metadata."""
        own = {} if self.count == 1 else {"shard": f"{self.number}/{self.count}"}
        return schema.with_metadata({**(schema.metadata or {}), **own, **more})

    def of(self, work: Sequence[T]) -> Sequence[T]:
        """Its part of the work: every `count`-th item."""
        return work[self.number - 1 :: self.count]

    def has(self, place: int) -> bool:
        """Whether the item at `place` (from 0) is among its work."""
        return place % self.count == self.number - 1

    def named(self, run: str) -> str:
        """The name of its job: `refl-s0`, or `refl-s0.2-of-4`."""
        return run if self.count == 1 else f"{run}.{self.number}-of-{self.count}"


WHOLE = Shard()


@dataclass(frozen=True)
class Parts:
    """The files of all shards of a table, in the order of their numbers; a file has one row group per batch."""

    paths: Sequence[Path]
    files: Sequence[pq.ParquetFile]

    @classmethod
    def open(cls, paths: Sequence[Path], schema: pa.Schema) -> Parts:
        """Raises InputError for files that are not all shards of one table of `schema`, in order."""
        files = [_open(path, schema, Shard(number, len(paths))) for number, path in enumerate(paths, 1)]
        batches = [file.num_row_groups for file in files]
        total = sum(batches)
        if batches != [len(range(number, total, len(files))) for number in range(len(files))]:
            raise InputError(f"shards with {batches} batches are not of one run: {', '.join(map(str, paths))}")
        return cls(paths, files)

    def __len__(self) -> int:
        """The number of batches."""
        return sum(file.num_row_groups for file in self.files)

    def batch(self, place: int) -> pa.Table:
        """The rows made of one batch; `place` counts from 0."""
        turn = place % len(self.files)
        try:
            return self.files[turn].read_row_group(place // len(self.files))
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.paths[turn]}: not a readable Parquet file: {reason}") from None

    def about(self) -> list[Mapping[str, str]]:
        """What stands in the metadata of every file."""
        found = [file.schema_arrow.metadata or {} for file in self.files]
        return [{key.decode(): value.decode() for key, value in each.items()} for each in found]


def _open(path: Path, schema: pa.Schema, expected: Shard) -> pq.ParquetFile:
    tables.read(path, schema, [])  # refuses what is no such table
    file = pq.ParquetFile(path)
    found = (file.schema_arrow.metadata or {}).get(b"shard", b"1/1").decode()
    if found != f"{expected.number}/{expected.count}":
        raise InputError(f"{path}: is shard {found}, expected {expected.number}/{expected.count}")
    return file
