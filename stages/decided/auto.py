"""What `auto` stands for in a study: resolved once by the job `decided`, read by the jobs that train and sample.

The rule: the open share of one named diversity is measured at indices 0 <= i < T (`stages/decided/shares.py`).
`settled(share)` is the smallest measured index at which, and at every later measured one, at most `share` of it is
open. `start: auto` is settled(decided.open), `k: auto` the indices settled(s) for every s of `decided.k_open`, each
once, 1 in place of 0. Torch-free.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from stages.errors import InputError
from stages.params import Settings, describe
from stages.runtime import whole_file

Auto = Literal["auto"]
"""What a key says whose value is taken from what `decided` found."""


@dataclass(frozen=True)
class Resolved:
    """What `auto` stands for on a grid of `steps`, and where from.

    `start` is None, and `k` empty, where no measured index is settled. `prompts` are the ids of the prompts that were
    used, `evaluations` all network evaluations of the job, a guided one counted twice.
    """

    steps: int
    diversity: str
    open: float
    start: int | None
    k: tuple[int, ...]
    evaluations: int = 0
    prompts: tuple[str, ...] = ()

    def start_of(self, steps: int) -> int:
        """`start: auto` on a grid of `steps`: the first index whose share of the grid is not below that of `start`.

        Raises ValueError where nothing is settled.
        """
        if self.start is None:
            raise ValueError(f"start: auto: more than {self.open:.0%} of {self.diversity} is open at every index that"
                             " `decided` measured; raise decided.open, or measure later indices")  # fmt: skip
        return min(math.ceil(self.start * steps / self.steps), steps - 1)

    def k_of(self, steps: int) -> tuple[int, ...]:
        """`k: auto` on a grid of `steps`; raises ValueError where there is none, or the grid is another one."""
        if steps != self.steps:
            raise ValueError(f"k: auto: decided on a grid of {self.steps} steps, expected one of {steps}")
        if not self.k:
            raise ValueError(f"k: auto: {self.diversity} is not settled at any index that `decided` measured to a share"
                             " of decided.k_open; raise these shares, or measure later indices")  # fmt: skip
        return self.k

    def write(self, path: Path) -> None:
        """Write the values as JSON, whole or not at all."""
        with whole_file(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Resolved:
        """Read what `decided` wrote; raises InputError for another file."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**_Written.model_validate(values).model_dump())
        except (OSError, ValueError) as error:
            reason = describe(error, _Written, "") if isinstance(error, ValidationError) else str(error)
            reason = " ".join(reason.split())[:200]
            raise InputError(f"{path}: not what `decided` writes as auto.json ({reason}); run that job again") from None


class _Written(Settings):
    """The fields of `Resolved` as they stand in the file."""

    steps: int = Field(ge=1)
    diversity: str
    open: float
    start: int | None = Field(ge=0)
    k: tuple[Annotated[int, Field(ge=1)], ...]
    evaluations: int = Field(ge=0)
    prompts: tuple[str, ...]

    @model_validator(mode="after")
    def _on_the_grid(self) -> _Written:
        if max([*self.k, self.start or 0]) >= max(self.steps, 2):
            raise ValueError(f"an index is not on a grid of {self.steps} steps")
        return self


def resolve(shares: Mapping[int, float], steps: int, diversity: str, open: float, k_open: Sequence[float]) -> Resolved:
    """What `auto` stands for, from the open share of the named diversity at every measured index."""
    start = settled(shares, open)
    found = [settled(shares, share) for share in k_open]
    k = sorted({max(1, index) for index in found if index is not None and steps > 1})
    return Resolved(steps, diversity, open, start, tuple(k))


def settled(shares: Mapping[int, float], share: float) -> int | None:
    """The smallest index at which, and at every later one, at most `share` is open; None where the last one is not."""
    found = None
    for index in sorted(shares, reverse=True):
        if not shares[index] <= share:
            break
        found = index
    return found


def stand_in(steps: int) -> Resolved:
    """What `auto` stands for where the share falls evenly from index to index: for estimates before the job has run."""
    shares = {i: 1 - i / steps for i in range(steps)}
    return resolve(shares, steps, "", 0.25, (0.75, 0.5, 0.25, 0.1))
