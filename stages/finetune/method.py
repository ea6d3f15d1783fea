"""A fine-tuning method: its settings and the objective that trains with them. Torch-free.

The module of a method, a file in `stages/finetune/methods/` or the target of an entry point of the group
`imagerefl.methods`, holds its settings class as `Settings`, its title and source as `ABOUT` (`stages/about.py`), and a
`Method` as `METHOD`. Most methods make theirs by one of the functions in `stages/finetune/family.py`, a function per
family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stages import plugins
from stages.errors import InputError
from stages.finetune.settings import MethodSettings

if TYPE_CHECKING:
    from stages.finetune.objective import Objective, Run

PACKAGE, GROUP = "stages.finetune.methods", "imagerefl.methods"
S = TypeVar("S", bound=MethodSettings)


@dataclass(frozen=True)
class Method(Generic[S]):
    """`objective(settings, run)` makes the method's objective before its first step, and may import torch."""

    settings: type[S]
    objective: Callable[[S, Run], Objective]


def kinds() -> tuple[str, ...]:
    """Every known kind of method, those of installed packages too, without importing any."""
    return plugins.names(PACKAGE, GROUP)


def load(kind: str, where: str) -> tuple[Method[Any], ModuleType]:
    """The method of a kind and its module; raises InputError, starting with `where`, for an unknown kind or a module
    that holds no method.
    """
    module = plugins.load(PACKAGE, GROUP, kind, where)
    method = vars(module).get("METHOD")
    if not isinstance(method, Method):
        raise InputError(f"{where}: module {module.__name__} of kind {kind!r} has no METHOD, expected a Method there")
    return method, module
