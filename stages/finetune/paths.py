"""The files that training reads. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.finetune.needs import Needs


@dataclass(frozen=True)
class Paths:
    """Model records of the base, the training reward and the held-out reward (None where nothing is probed), the two
    files of `encode`, the folder of distilled models, for methods that name one, what `auto` stands for, and the oracle
    that probes ask.
    """

    base: Path
    reward: Path
    heldout: Path | None
    tensors: Path
    index: Path
    predictors: Path | None = None
    auto: Path | None = None
    oracle: Path | None = None

    def student(self, name: str) -> Path | None:
        """The record of a distilled model; None without a folder of them."""
        return None if self.predictors is None else self.predictors / f"{name}.json"

    def inputs(self, needs: Needs) -> list[Path]:
        """Every file that a run with these needs reads."""
        student = None if needs.student is None else self.student(needs.student)
        every = (self.base, self.reward, self.heldout, self.tensors, self.index, student, self.auto, self.oracle)
        return [path for path in every if path is not None]
