"""From a study file and the name of a run to everything that training needs to know. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.decided.auto import Resolved
from stages.errors import InputError
from stages.finetune.method import Method, kinds, load
from stages.finetune.settings import FinetuneSettings, MethodSettings, RunSettings, StudySettings
from stages.kinds import shown
from stages.params import nearest, read_study, section, validate_again
from stages.runtime import sha256


@dataclass(frozen=True)
class TrainingPlan:
    """One run: its name, the entry of `methods` and what its kind is, the settings, seeds and rewards' names.

    `module` is the one that `definition` stands in.
    """

    name: str
    method: str
    seed: int
    definition: Method[Any]
    module: ModuleType
    method_settings: MethodSettings
    train: FinetuneSettings
    study: StudySettings
    taken: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the method that are `auto` in the study, with what they stand for."""

    def parameters(self) -> dict[str, object]:
        """The few parameters a reader compares runs by."""
        t = self.train
        own = self.method_settings.model_dump(exclude={"train"})
        shared = {
            "method": self.method, "seed": self.seed, "reward": self.study.reward, "steps": t.steps,
            "lr": t.optimizer.lr, "batch_size": t.batch_size, "sampling_steps": t.sampling_steps,
            "trainable": t.trainable,
        }  # fmt: skip
        return shared | own

    def identity(self) -> dict[str, object]:
        """Everything of the study that decides the result of the run, and the code of an installed method."""
        train = self.train.model_dump(exclude={"nonfinite"})  # a run that stopped there may go on by skipping
        code = sha256(self.module.__file__) if self.module.__file__ else ""
        return {
            "method": self.method_settings.model_dump(exclude={"train"}), "seed": self.seed, "train": train,
            "study": self.study.model_dump(), "code": code,
        }  # fmt: skip


def require_even(plan: TrainingPlan, processes: int) -> None:
    """Raise InputError where what a micro-batch is made of does not divide evenly among so many processes, or where the
    method trains in one only.
    """
    if processes > 1 and not plan.method_settings.needs.several_processes:
        raise InputError(f"run {plan.name!r}: method {plan.method!r} trains in one process, not in {processes}")
    for what, count in plan.method_settings.shares(plan.train).items():
        if count % processes:
            raise InputError(
                f"run {plan.name!r}: a micro-batch: {count} {what} do not divide evenly among {processes} processes"
            )


def method(settings: Mapping[str, Any], where: str) -> tuple[Method[Any], ModuleType, MethodSettings]:
    """The method of one entry of `methods`, its module and the validated settings; raises InputError that starts with
    `where`.
    """
    if not isinstance(settings, Mapping) or "kind" not in settings:
        raise InputError(f"{where}: expected a mapping with a key 'kind' ({', '.join(kinds())})")
    if not isinstance(settings["kind"], str):
        raise InputError(f"{where}.kind: expected text, found {shown(settings['kind'])}")
    definition, module = load(settings["kind"], where)
    return definition, module, validate_again(definition.settings, settings, where)


def training_plan(
    path: str | Path, name: str, study: dict[str, Any] | None = None, found: Resolved | None = None
) -> TrainingPlan:
    """The plan of run `name` of the study at `path`; raises InputError for anything that does not fit together.

    `study` is what stands in the file, where it was read before, and `found` what `auto` stands for, where that is
    known; without it, what is `auto` stays so.
    """
    study = read_study(path) if study is None else study
    runs = study.get("runs") or {}
    if name not in runs:
        raise InputError(f"{path}: runs: there is no run {name!r}{nearest(name, runs)}")
    run = validate_again(RunSettings, runs[name], f"{path}: runs.{name}")
    methods = study.get("methods") or {}
    if run.method not in methods:
        raise InputError(f"{path}: runs.{name}.method: unknown method {run.method!r}{nearest(run.method, methods)}")
    definition, module, settings = method(methods[run.method], f"{path}: methods.{run.method}")
    shared = section(path, "finetune", FinetuneSettings, study)
    train = validate_again(FinetuneSettings, shared.overridden(settings.train), f"{path}: methods.{run.method}.train")
    said = settings.model_dump()
    try:
        settings = settings if found is None else settings.decided(found, train.sampling_steps)
        settings.check(train)
        if settings.source is not None and settings.needs.data not in ("images", "pairs"):
            raise ValueError(f"source {settings.source!r}: these settings train on no images and no pairs")
    except ValueError as error:
        raise InputError(f"{path}: methods.{run.method}: {error}") from None
    about = section(path, "study", StudySettings, study)
    taken = {key: value for key, value in settings.model_dump().items() if said[key] == "auto" != value}
    return TrainingPlan(name, run.method, run.seed, definition, module, settings, train, about, taken)
