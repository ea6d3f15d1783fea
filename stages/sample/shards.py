"""The images of a run that several jobs made, as one file. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages import tables
from stages.errors import InputError
from stages.sample.made_by import of_policy, policy_of
from stages.shards import Parts


def join(parts: Sequence[Path], samples: Path) -> int:
    """Write `samples` from the files of all shards, in the order of their numbers; returns the number of images.

    Raises InputError for files that are not all shards of one run, in order, or were made with different policies.
    """
    found = Parts.open(parts, tables.SAMPLES)
    digests = [policy_of(part) for part in parts]
    for part, digest in zip(parts, digests, strict=True):
        if digest != digests[0]:
            raise InputError(
                f"{part}: made with policy {digest or 'unknown'}, but {parts[0]} with {digests[0] or 'unknown'}; run "
                "sample again"
            )
    schema = of_policy(tables.SAMPLES, digests[0])
    return tables.write(samples, (found.batch(place) for place in range(len(found))), schema)
