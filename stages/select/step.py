"""A step over curated pairs: it labels them anew, weighs them, or says which of them to keep. Torch-free.

The module of a step, a file in `stages/select/steps/` or the target of an entry point of the group
`imagerefl.pair_steps`, holds its settings class as `Settings` and a function `apply(pairs, settings)`, which returns a
`Change` and raises ValueError, its text beginning with the key, where the pairs at hand do not suit a setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from stages.params import Settings

if TYPE_CHECKING:
    import numpy as np


class StepSettings(Settings):
    """What every entry of `select.steps` may say."""

    LABELS: ClassVar[bool] = False
    """Whether the step says which image is preferred, whatever the data says."""

    kind: str = Field(description="the step: a module of stages/select/steps or an installed one")

    def rewards(self) -> tuple[str, ...]:
        """Rewards whose scores of the pairs the step reads, of `score.rewards`."""
        return ()

    def paths(self) -> tuple[str, ...]:
        """Files from outside that the step reads."""
        return ()

    def at_least(self) -> int:
        """Training pairs that the step needs."""
        return 1


@dataclass(frozen=True)
class Change:
    """What a step makes of n pairs; None is as before.

    `keep` is bool [n]; `preference` float [n], the probability in [0, 1] that image a is preferred; `weight` float [n],
    0 or more.
    """

    keep: np.ndarray | None = None
    preference: np.ndarray | None = None
    weight: np.ndarray | None = None
