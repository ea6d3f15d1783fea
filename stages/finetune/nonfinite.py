"""A training step that is not finite is caught before the optimizer takes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stages.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.batch import Batch
    from stages.processes import Processes

SHOWN, LONGEST = 4, 60  # prompts named in a message, characters of each
IN_A_ROW = 20
"""Steps that are skipped in a row, at most; one more ends the run."""


class NonFinite(InputError):
    """A term of the loss, or its gradient, is NaN or infinite. The policy and the optimizer are as before the step.

    `terms` are the step's terms, `prompts` those of the micro-batches where it happened.
    """

    def __init__(self, terms: Mapping[str, float], prompts: Sequence[str]) -> None:
        self.terms, self.prompts = dict(terms), list(prompts)
        bad = ", ".join(f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value))
        shown = ", ".join(repr(prompt[:LONGEST]) for prompt in prompts[:SHOWN])
        more = f" and {len(prompts) - SHOWN} more" if len(prompts) > SHOWN else ""
        super().__init__(f"{bad}; prompts {shown}{more}")

    def finite(self) -> dict[str, float]:
        """The terms that are finite, and `skipped`, which marks a step that was not taken."""
        return {name: value for name, value in self.terms.items() if math.isfinite(value)} | {"skipped": 1.0}


def require_finite(
    terms: Mapping[str, float], each: Sequence[Mapping[str, Tensor]], batches: Sequence[Batch], processes: Processes
) -> None:
    """Raise NonFinite unless all `terms` of a step, which are those of all `processes`, are finite.

    `each` holds the terms of each of this process's micro-batches; the error names prompts of all processes.
    """
    if all(math.isfinite(value) for value in terms.values()):
        return
    own = [not all(math.isfinite(float(value)) for value in found.values()) for found in each]
    bad = processes.everyone(own)
    if not any(bad):  # the terms are finite, their gradient is not
        bad = [True] * len(bad)
    batched = processes.everyone([list(batch.prompts) for batch in batches])
    prompts = [prompt for found, wrong in zip(batched, bad, strict=True) if wrong for prompt in found]
    raise NonFinite(terms, list(dict.fromkeys(prompts)))
