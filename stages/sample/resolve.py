"""From the section `sample` of a study to strategies with their settings. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from stages import plugins
from stages.errors import InputError
from stages.params import section, validate
from stages.runtime import sha256
from stages.sample.settings import SampleSettings, StrategySettings, StudySeed

STRATEGIES, GROUP = "stages.sample.strategies", "imagerefl.strategies"


@dataclass(frozen=True)
class Strategy:
    """One entry of `sample.strategies`."""

    name: str
    module: ModuleType
    settings: StrategySettings


@dataclass(frozen=True)
class Plan:
    """Everything sampling needs of a study."""

    seed: int
    sample: SampleSettings
    strategies: list[Strategy]

    def identity(self) -> dict[str, object]:
        """Everything of the study that decides the images, and the code of installed strategies."""
        files = [s.module.__file__ for s in self.strategies]
        settings = self.sample.model_dump(exclude={"shards"})
        return {"seed": self.seed, "sample": settings, "code": [sha256(file) for file in files if file]}

    def switches(self) -> dict[float, list[int]]:
        """Steps at which latents of the base are kept, by the base's guidance scale."""
        kept: dict[float, set[int]] = {}
        for strategy in self.strategies:
            found = [strategy.settings.shared_steps(value) for _, value in strategy.settings.points()]
            if shared := {steps for steps in found if steps is not None}:
                kept.setdefault(strategy.settings.base_guidance, set()).update(shared)
        return {scale: sorted(steps) for scale, steps in kept.items()}


def strategy(name: str, values: dict[str, Any], steps: int, where: str) -> Strategy:
    """One validated strategy; raises InputError that starts with `where`."""
    if "kind" not in values:
        raise InputError(f"{where}: expected a key 'kind' ({', '.join(plugins.names(STRATEGIES, GROUP))})")
    module = plugins.load(STRATEGIES, GROUP, str(values["kind"]), where)
    settings = validate(module.Settings, values, where)
    try:
        settings.check(steps)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    return Strategy(name, module, settings)


def resolve(path: str | Path) -> Plan:
    """The plan of the study at `path`."""
    sample = section(path, "sample", SampleSettings)
    found = [
        strategy(name, values, sample.steps, f"{path}: sample.strategies.{name}")
        for name, values in sample.strategies.items()
    ]
    return Plan(section(path, "study", StudySeed).seed, sample, found)
