"""Every settings class of the project, found by importing what may define one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from pydantic import BaseModel

import stages
from stages.params import Settings

MESSAGES = "stages.rewards.serve"
"""What clients send to the server of rewards and get from it: no part of a study."""


def every_class() -> list[type[BaseModel]]:
    """The classes that read a part of a study or of a model's options, by module and name."""
    for _ in _modules(stages):
        pass
    every = (model for model in _below(BaseModel) if model.__module__.startswith("stages."))
    found = {model for model in every if not model.__module__.startswith(MESSAGES)} - {Settings}
    return sorted(found, key=lambda model: (model.__module__, model.__qualname__))


def _below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for inner in model.__subclasses__():
        yield inner
        yield from _below(inner)


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for about in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not about.name.endswith("__main__"):
            yield importlib.import_module(about.name)
