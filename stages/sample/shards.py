"""The images of a run that several jobs made, as one file. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages import tables
from stages.shards import Parts


def join(parts: Sequence[Path], samples: Path) -> int:
    """Write `samples` from the files of all shards, in the order of their numbers; returns the number of images.

    Raises InputError for files that are not all shards of one run, in order.
    """
    found = Parts.open(parts, tables.SAMPLES)
    return tables.write(samples, (found.batch(place) for place in range(len(found))), tables.SAMPLES)
