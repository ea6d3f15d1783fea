"""What each image costs, counted where it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

Count = Literal["nfe", "nfe_backward", "queries", "decodes"]
COUNTS: tuple[Count, ...] = ("nfe", "nfe_backward", "queries", "decodes")


class Cost(NamedTuple):
    """The cost of one image.

    `nfe` network evaluations (a guided one counts as two) and `nfe_backward` those among them that carried gradient,
    `queries` of rewards, `decodes` of latents.
    """

    nfe: int = 0
    nfe_backward: int = 0
    queries: int = 0
    decodes: int = 0


@dataclass
class Meter:
    """Counts of `images` images; int64 arrays [images]."""

    images: int
    counts: dict[Count, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {name: np.zeros(self.images, dtype=np.int64) for name in COUNTS}

    def add(self, name: Count, images: Sequence[int], times: int = 1) -> None:
        """Charge `times` to the image of each row; an image may have several rows."""
        np.add.at(self.counts[name], np.asarray(images, dtype=np.int64), times)

    def costs(self) -> list[Cost]:
        """The cost of every image."""
        columns = (self.counts[name].tolist() for name in COUNTS)
        return [Cost(*values) for values in zip(*columns, strict=True)]
