"""Section `select` of a study file: how pairs are labelled and chosen before they are encoded. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import Field

from stages import plugins
from stages.errors import InputError
from stages.params import Settings, validate
from stages.select.step import StepSettings

PACKAGE, GROUP = "stages.select.steps", "imagerefl.pair_steps"


class SelectSettings(Settings):
    """Steps over the curated training pairs, in order.

    The section is optional; a study without it learns from the pairs as they were curated.
    """

    steps: tuple[dict[str, Any], ...] = Field(
        min_length=1, description="each a kind with its settings; a step sees what the steps before it left"
    )


@dataclass(frozen=True)
class Step:
    """One entry of `select.steps`; `where` begins what is said of it."""

    module: ModuleType
    settings: StepSettings
    where: str

    @property
    def kind(self) -> str:
        """Its kind."""
        return self.settings.kind


def steps(section: SelectSettings, where: str) -> list[Step]:
    """The steps with their settings; raises InputError, which starts with `where` (`study.yaml: select`), for an
    unknown kind and a wrong setting.
    """
    return [_step(values, f"{where}.steps.{number}") for number, values in enumerate(section.steps)]


def rewards(section: Mapping[str, Any] | None, where: str) -> list[str]:
    """Rewards whose scores the steps of a section read, each once, in order; none without a section."""
    return list(dict.fromkeys(name for step in read(section, where) for name in step.settings.rewards()))


def read(section: Mapping[str, Any] | None, where: str) -> list[Step]:
    """The steps of a section as it stands in a study file; none without a section."""
    return [] if section is None else steps(validate(SelectSettings, section, where), where)


def _step(values: dict[str, Any], where: str) -> Step:
    kind = values.get("kind")
    if not isinstance(kind, str):
        raise InputError(f"{where}: expected a mapping with a 'kind', a text, found {sorted(map(str, values))}")
    module = plugins.load(PACKAGE, GROUP, kind, f"{where}.kind")
    settings = vars(module).get("Settings")
    if not (isinstance(settings, type) and issubclass(settings, StepSettings) and callable(vars(module).get("apply"))):
        raise InputError(f"{where}: module {module.__name__} of kind {kind!r} has no Settings of a step, or no apply")
    return Step(module, validate(settings, values, where), where)
