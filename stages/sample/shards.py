"""The images of a run in several jobs: each makes every n-th batch, and the files are joined in the order of one job.

Batches are cut as for one job, so the images are the same bytes for any number of shards. Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(*map(int, found.groups())) if found else cls(0)
        if not 1 <= shard.number <= shard.count:
            raise InputError(f"--shard {text}: expected a shard and their number, like 2/4")
        return shard

    @property
    def schema(self) -> pa.Schema:
        """That of the table of samples; a part says which one it is."""
        if self.count == 1:
            return tables.SAMPLES
        return tables.SAMPLES.with_metadata(
            {**tables.SAMPLES.metadata, b"shard": f"{self.number}/{self.count}".encode()}
        )

    def of(self, work: Sequence[T]) -> Sequence[T]:
        """Its part of the work: every `count`-th item."""
        return work[self.number - 1 :: self.count]

    def named(self, run: str) -> str:
        """The name of its job: `refl-s0`, or `refl-s0.2-of-4`."""
        return run if self.count == 1 else f"{run}.{self.number}-of-{self.count}"


WHOLE = Shard()


def join(parts: Sequence[Path], samples: Path) -> int:
    """Write `samples` from the files of all shards, in the order of their numbers; returns the number of images.

    A file has one row group a batch. Raises InputError for files that are not all shards of one run, in order.
    """
    files = [_open(part, Shard(number, len(parts))) for number, part in enumerate(parts, 1)]
    batches = [file.num_row_groups for file in files]
    total = sum(batches)
    if batches != [len(range(number, total, len(files))) for number in range(len(files))]:
        raise InputError(f"shards with {batches} batches are not of one run: {', '.join(map(str, parts))}")

    def turns() -> Iterator[pa.Table]:
        for place in range(total):
            yield files[place % len(files)].read_row_group(place // len(files))

    return tables.write(samples, turns(), tables.SAMPLES)


def _open(path: Path, expected: Shard) -> pq.ParquetFile:
    tables.read(path, tables.SAMPLES, ["prompt_id"])  # refuses what is no table of samples
    file = pq.ParquetFile(path)
    found = (file.schema_arrow.metadata or {}).get(b"shard", b"1/1").decode()
    if found != f"{expected.number}/{expected.count}":
        raise InputError(f"{path}: is shard {found}, expected {expected.number}/{expected.count}")
    return file
