"""Distilled models against the methods and strategies that evaluate them. Torch-free; part of `stages.study.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.errors import InputError
from stages.params import require_known

if TYPE_CHECKING:
    from stages.finetune.resolve import TrainingPlan
    from stages.sample.settings import StrategySettings
    from stages.study import Study


def of_method(study: Study, plan: TrainingPlan, where: str) -> None:
    """A distilled model that a method asks for is trained here, for the rollouts that it is used in; one that is itself
    tuned has rollouts of its own, in few steps and without guidance.
    """
    needs = plan.method_settings.needs
    name = needs.student
    if name is None:
        return
    known = study.prepare.train.consistency
    require_known([name], known, f"{where}.model", "consistency model")
    if needs.starts_as_student:
        return
    for key in ("sampling_steps", "guidance"):
        ours, theirs = getattr(plan.train, key), getattr(known[name], key)
        if ours != theirs:
            raise InputError(f"{where}: {key} {ours}, but its model {name!r} is distilled for {theirs}")


def of_strategy(study: Study, settings: StrategySettings, where: str) -> None:
    """A distilled model that a strategy evaluates is trained here, for the steps that are sampled; for a strategy that
    lays a grid of its own, whatever it was distilled for.
    """
    known = study.prepare.train.consistency
    named = [entry for target in settings.apply_to for entry in settings.students(target).items()]
    for key, name in named:
        require_known([name], known, f"{where}.{key}", "consistency model")
        if not settings.grids() and known[name].sampling_steps != study.sample.steps:
            raise InputError(
                f"{where}: sample.steps {study.sample.steps}, but its model {name!r} is distilled for "
                f"{known[name].sampling_steps}"
            )
