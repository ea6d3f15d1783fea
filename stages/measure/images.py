"""The images of one run in batches, checked to belong together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from stages import tables
from stages.errors import InputError
from stages.measure.expected import KEY, Expected, expected
from stages.pictures import decode

Row: TypeAlias = dict[str, Any]
"""A row of a samples table."""


@dataclass(frozen=True)
class Batches:
    """The images of a samples table, `batch_size` at a time in the order of the table."""

    path: Path
    batch_size: int
    expected: Expected
    """Images of every prompt, by the values of `KEY`."""
    prompts: frozenset[tuple[str, str]]
    """(prompt id, prompt)."""
    resolution: tuple[int, int]
    """Width and height of every image, in pixels."""

    @classmethod
    def open(cls, path: Path, run: str, batch_size: int) -> Batches:
        """Raises InputError where the table holds no images, or any that do not belong to one suite of `run`."""
        counts, suite = expected(path, run)
        first = next(tables.stream(path, tables.SAMPLES, 1, ["image"]))["image"][0].as_py()
        height, width = decode(first, f"{path}: first image").shape[:2]
        return cls(path, batch_size, counts, frozenset(suite), (width, height))

    def __len__(self) -> int:
        """The number of batches."""
        return -(-sum(counts.total() for counts in self.expected.values()) // self.batch_size)

    def rows(self) -> Iterator[list[Row]]:
        """The rows of one batch after another."""
        columns = [*KEY, "prompt_id", "prompt", "sample", "image"]
        for part in tables.stream(self.path, tables.SAMPLES, self.batch_size, columns):
            yield part.to_pylist()

    def pixels(self, rows: list[Row]) -> np.ndarray:
        """Their images, uint8 [n, H, W, 3]; raises InputError for one of another size than the first."""
        images = []
        for row in rows:
            where = f"{self.path}: sample {row['sample']} of prompt {row['prompt_id']}"
            images.append(decode(row["image"], where))
            height, width = images[-1].shape[:2]
            if (width, height) != self.resolution:
                wanted = f"{self.resolution[0]}x{self.resolution[1]}"
                raise InputError(f"{where}: {width}x{height} pixels, expected {wanted} as the first")
        return np.stack(images)
