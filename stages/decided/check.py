"""The section `decided`, and what is `auto`, against the rest of a study. Torch-free; part of `stages.study.load`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.errors import InputError
from stages.finetune import resolve as methods
from stages.params import require_known

if TYPE_CHECKING:
    from stages.sample.resolve import SamplingPlan
    from stages.study import Study

UNDECIDED = (
    "but there is no section `decided` to take it from; add one, `decided: {diversity: attribute_diversity}` say"
)


def check(study: Study, sampling: SamplingPlan, measured: Sequence[str], where: str) -> None:
    """What is taken from `decided` is decided, over indices that there are and a diversity that is measured."""
    if study.decided is None:
        for name, settings in study.methods.items():
            if methods.method(settings, f"{where}methods.{name}")[2].auto:
                raise InputError(f"{where}methods.{name}: start or middle is auto, {UNDECIDED}")
        for strategy in sampling.strategies:
            if strategy.settings.auto:
                raise InputError(f"{where}sample.strategies.{strategy.name}: k is auto, {UNDECIDED}")
        return
    try:
        study.decided.grid(study.sample.steps)
    except ValueError as error:
        raise InputError(f"{where}decided.{error}") from None
    require_known([study.decided.diversity], measured, f"{where}decided.diversity", "measured diversity")
