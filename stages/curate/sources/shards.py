"""Names of shards as published data sets have them: `train-00000-of-00004.parquet`, the first of four of a split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from stages.curate.left_out import LeftOut
from stages.errors import InputError

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
NOT_HERE = "a shard that is not here"
_SHARD = re.compile(r"(?P<split>.*)-(?P<number>\d+)-of-(?P<count>\d+)\.[a-z]+", re.IGNORECASE)


def require_one_set(root: Path, files: Iterable[Path], left_out: LeftOut) -> None:
    """Count the shards that a set below `root` lacks. Raises InputError for shards of several splits, and where those
    of one split are numbered in two ways, as after a second download of other sizes.
    """
    sets: dict[tuple[Path, str], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for file in files:
        if found := _SHARD.fullmatch(file.name):
            sets[file.parent, found["split"]][found["count"]].add(int(found["number"]))
    splits = sorted({split for _, split in sets})
    if len(splits) > 1 and any(split.lower() in SPLITS for split in splits):
        raise InputError(
            f"{root}: holds shards of several splits: {', '.join(splits)}; name those of one by a pattern, such as "
            f"{root}/**/{splits[-1]}-*.parquet"
        )
    for (folder, split), counts in sets.items():
        if len(counts) > 1:
            ways = " and of ".join(str(int(count)) for count in sorted(counts, key=int))
            raise InputError(f"{folder}: shards of {ways} of {split!r}, which are two sets; keep one of them")
        for count, numbers in counts.items():
            for number in sorted(set(range(int(count))) - numbers)[: int(count)]:
                left_out.add(f"{folder / split}-{number:0{len(count)}}-of-{count}", NOT_HERE)
