"""From the section `sample` of a study to strategies with their settings. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any

from stages import plugins
from stages.checkpoints.settings import SEED as CHECKPOINT_SEED
from stages.decided.auto import Resolved
from stages.errors import InputError
from stages.kinds import shown
from stages.params import nearest, section, validate_again
from stages.runtime import sha256
from stages.sample.settings import SampleSettings, StrategySettings, StudySeed, Target

STRATEGIES, GROUP = "stages.sample.strategies", "imagerefl.strategies"


@dataclass(frozen=True)
class Strategy:
    """One entry of `sample.strategies`, or the one that `sample.guidance` stands for."""

    name: str
    module: ModuleType
    settings: StrategySettings


@dataclass(frozen=True)
class SamplingPlan:
    """Everything sampling needs of a study."""

    seed: int
    sample: SampleSettings
    strategies: list[Strategy]

    def of(self, target: Target) -> list[Strategy]:
        """The strategies that are applied to the base, or to trained runs."""
        return [strategy for strategy in self.strategies if target in strategy.settings.apply_to]

    def identity(self, target: Target) -> dict[str, object]:
        """Everything of the study that decides the images of the base, or of a run, and the code of its strategies."""
        own = self.of(target)
        files = [strategy.module.__file__ for strategy in own]
        return {
            "seed": self.seed,
            "sample": self.sample.model_dump(exclude={"shards", "guidance", "strategies"}),
            "strategies": {strategy.name: strategy.settings.model_dump() for strategy in own},
            "switches": self.switches() if target == "base" else {},
            "code": [sha256(file) for file in files if file],
        }

    def rewards(self, target: Target) -> list[str]:
        """Models of the study that strategies ask, each once."""
        return list(dict.fromkeys(name for each in self.of(target) for name in each.settings.rewards()))

    def networks(self, target: Target) -> list[str]:
        """Further trained networks that strategies evaluate, each once: runs or methods."""
        return list(dict.fromkeys(name for each in self.of(target) for name in each.settings.networks()))

    def students(self, target: Target) -> list[str]:
        """Distilled models that strategies evaluate, each once."""
        return list(dict.fromkeys(name for each in self.of(target) for name in each.settings.students(target).values()))

    def switches(self) -> dict[float, list[int]]:
        """Steps at which latents of the base are kept for trained runs, by the base's guidance scale."""
        kept: dict[float, set[int]] = {}
        for strategy in self.of("tuned"):
            for _, value in strategy.settings.points():
                if (prefix := strategy.settings.shared_prefix(value)) is not None:
                    kept.setdefault(prefix.guidance, set()).add(prefix.steps)
        return {scale: sorted(steps) for scale, steps in kept.items()}


def run_of(network: str, run: str, runs: Collection[str], where: str) -> str:
    """The run whose network a strategy calls `network` when `run` (or `base`) is sampled: a run of that name, or the
    run of that method with the training seed of `run` (0 of a checkpoint).

    Raises InputError that starts with `where` if there is none.
    """
    seed = run.rpartition("-s")[2]
    if run != "base" and not seed.isdigit():
        seed = str(CHECKPOINT_SEED)
    for name in (network, f"{network}-s{seed}"):
        if name in runs:
            return name
    raise InputError(
        f"{where}: no run {network!r}, nor one of that method with the seed of {run!r}{nearest(network, runs)}"
    )


def parsed(values: Mapping[str, Any], where: str) -> StrategySettings:
    """The settings of a strategy, each valid in itself; raises InputError that starts with `where`."""
    return _parse(values, where)[1]


def strategy(
    name: str, values: Mapping[str, Any], sample: SampleSettings, where: str, found: Resolved | None = None
) -> Strategy:
    """One strategy, checked against the section; raises InputError that starts with `where`.

    Without `found`, what is `auto` stays so.
    """
    module, settings = _parse(values, where)
    try:
        if unfit := [target for target in settings.apply_to if target not in settings.suits]:
            raise ValueError(f"apply_to: kind {settings.kind} cannot be applied to {unfit[0]}")
        settings = settings if found is None else settings.decided(found, sample.steps)
        settings.check(sample)
        if settings.auto:
            return Strategy(name, module, settings)
        labels = [label for label, _ in settings.points()]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"setting {twice[0]} stands twice, expected every setting once")
    except (ValueError, InputError) as error:
        raise InputError(f"{where}: {error}") from None
    return Strategy(name, module, settings)


def sampling_plan(path: str | Path, study: dict[str, Any] | None = None, found: Resolved | None = None) -> SamplingPlan:
    """The plan of the study at `path`; `study` is what stands in the file, where it was read before, and `found` what
    `auto` stands for, where that is known.
    """
    sample = section(path, "sample", SampleSettings, study)
    made = [
        strategy(name, values, sample, f"{path}: sample.strategies.{name}", found)
        for name, values in sample.entries().items()
    ]
    return SamplingPlan(section(path, "study", StudySeed, study).seed, sample, made)


def _parse(values: Mapping[str, Any], where: str) -> tuple[ModuleType, StrategySettings]:
    if "kind" not in values:
        raise InputError(f"{where}: expected a key 'kind' ({', '.join(plugins.names(STRATEGIES, GROUP))})")
    if not isinstance(values["kind"], str):
        raise InputError(f"{where}.kind: expected text, found {shown(values['kind'])}")
    module = plugins.load(STRATEGIES, GROUP, values["kind"], where)
    return module, validate_again(_settings(module, values["kind"], where), dict(values), where)


def _settings(module: ModuleType, kind: str, where: str) -> type[StrategySettings]:
    """The settings class of a strategy's module; raises InputError that starts with `where` if it has none, or one
    without all that a strategy needs.
    """
    found = getattr(module, "Settings", None)
    if not (isinstance(found, type) and issubclass(found, StrategySettings)):
        raise InputError(
            f"{where}: module {module.__name__} of kind {kind!r} has no Settings of a strategy, expected a subclass of"
            " Mixing, Search or StrategySettings there"
        )
    if isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise InputError(f"{where}: module {module.__name__} of kind {kind!r}: its Settings lack {lacking}")
    return found
