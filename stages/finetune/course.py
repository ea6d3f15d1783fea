"""How far a run has come, and how it goes on: after an interruption, and after a step that is not finite."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.learner import Learner
from stages.finetune.nonfinite import IN_A_ROW, NonFinite
from stages.resume import State

NAME = "run"


@dataclass
class Course:
    """The step to take next, the rows (step, term, value) of the log so far, and how many steps were just skipped.

    Together with the learner's own state that is everything: batches are functions of the step.
    """

    learner: Learner
    state: State
    skip: bool
    name: str = ""
    step: int = 0
    rows: list[tuple[int, str, float]] = field(default_factory=list)
    skipped: int = 0

    def resume(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Go on from what the state holds; yields step and terms of the steps that were taken before."""
        kept = self.state.load(NAME)
        if kept is None:
            return
        self.step, self.skipped = kept["step"], kept["skipped"]
        self.rows = [tuple(row) for row in kept["rows"]]
        self.learner.load_state(kept["learner"])
        torch.set_rng_state(kept["random"])
        if kept["random_cuda"]:
            torch.cuda.set_rng_state_all(kept["random_cuda"])
        print(f"{self.name}: resumed at step {self.step}", file=sys.stderr, flush=True)
        for step, rows in groupby(self.rows, key=lambda row: row[0]):
            yield step, {term: value for _, term, value in rows}

    def take(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The optimizer step; raises InputError where it is not finite and such steps are not to be skipped."""
        before = self.learner.standing()
        try:
            terms = self.learner.train_step(batches)
        except NonFinite as error:
            where = f"{self.name}: step {self.step}: {error}"
            self.skipped += 1
            if self.skip and self.skipped <= IN_A_ROW:
                print(f"warning: {where}; skipped", file=sys.stderr, flush=True)
                return error.finite()
            self.skipped -= 1
            self.state.save(NAME, self._content(before))
            self.learner.processes.wait()  # a process that ends takes the others with it
            advice = "lower the lr" if self.skip else "lower the lr, or skip such steps (finetune.nonfinite)"
            raise InputError(f"{where}; the step was not taken and the run stands before it; {advice}") from None
        self.skipped = 0
        return terms

    def end_step(self, terms: Mapping[str, float]) -> None:
        """Log a step and save when it is time to; raises Stopped when the job was told to stop."""
        self.rows += [(self.step, name, float(value)) for name, value in terms.items()]
        self.step += 1
        self.state.offer(NAME, self._content)

    def require_finite(self) -> None:
        """Raise InputError where a weight is NaN or infinite, which the last step may have made it."""
        average = self.learner.average or {}
        for name, value in [*self.learner.parameters.items(), *average.items()]:
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{self.name}: after step {self.step - 1} {name} is not finite; lower the lr")

    def _content(self, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What to save, with the parts in `before` in place of those of now."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "rows": self.rows,
            "learner": {**self.learner.state(), **(before or {})},
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
