"""A function of one's own that a study names as `package.module:function`: the form of its name, and the function.

`stages/own_code.py` finds the files of its code without running them. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from stages.errors import InputError


def named(place: str) -> str:
    """`place` itself; raises ValueError where it is not of the form `package.module:function`."""
    module, _, name = place.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ValueError(f"expected package.module:function, found {place!r}")
    return place


def function(place: str, where: str) -> Callable[..., Any]:
    """The function of that name; raises InputError that starts with `where` for code that cannot be imported, and for
    what is no function.
    """
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # whatever the code raises when it is imported
        raise InputError(f"{where}: {place!r} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise InputError(f"{where}: {place!r}, expected package.module:function")
    return found
