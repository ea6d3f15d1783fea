"""The section `select` against the rest of a study. Torch-free; part of `stages.study.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.errors import InputError
from stages.finetune import resolve as methods
from stages.params import require_known
from stages.places import missing
from stages.select import settings as selection

if TYPE_CHECKING:
    from stages.study import Study


def check(study: Study, where: str) -> None:
    """Steps over pairs ask rewards that score them and files that are there, and a trained method learns from pairs."""
    if study.select is None:
        return
    trained = {run.method for run in study.trained.values()}
    if not any(methods.method(study.methods[name], "")[2].needs.data == "pairs" for name in trained):
        raise InputError(f"{where}select: no trained method learns from pairs; expected one, or no such section")
    for step in selection.steps(study.select, f"{where}select"):
        require_known(step.settings.rewards(), study.score.rewards, step.where, "reward of score.rewards")
        for place in step.settings.paths():
            if fault := missing(place, "file"):
                raise InputError(f"{step.where}: {place}: {fault}")
