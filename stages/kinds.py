"""Kinds of values: whether what stands in a study file is of the kind that a settings class declares. Torch-free.

Pydantic would make numbers of texts and booleans, and booleans of texts; what a user wrote as `off` or `yes` then means
0 or 1. Here every value must be of the declared kind already; a whole number may stand for any number, and a number
without a fraction for a whole one.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

NAMES: dict[Any, str] = {float: "a number", int: "a number", bool: "true or false", str: "text", type(None): "null"}
"""The kinds that are told apart."""
LARGEST = 2**63 - 1
_LONGEST = 60


def unfit(annotation: Any, value: Any) -> str:
    """What is wrong with the kind of `value` for a field of this `annotation`, as `expected ..., found ...`; else
    empty.

    Looks at texts, numbers and booleans, also in lists and mappings; everything else is left to pydantic.
    """
    if annotation is Any or (isinstance(annotation, type) and not _unfit(annotation, value)):  # as most keys are
        return ""
    members = _members(annotation)
    if value is None and type(None) in members:
        return ""
    kinds = [member for member in members if member is not type(None)]
    faults = [_unfit(kind, value) if len(kinds) == 1 else _of_several(kind, value) for kind in kinds]
    if not faults or not all(faults):
        return ""
    inner = [fault for fault in faults if not fault.startswith("expected")]
    if inner:
        return inner[0]
    wanted = dict.fromkeys(name for member in members for name in _names(member))
    return f"expected {' or '.join(wanted)}, found {shown(value)}"


def _unfit(kind: Any, value: Any) -> str:
    """The fault of `value` for one member of a union; one of an item is told from the whole by how it begins."""
    if kind is int and isinstance(value, int) and abs(value) > LARGEST:
        return f"a whole number of this size does not fit 64 bits: {value}"
    if kind is int or kind is float:
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else f"expected {NAMES[kind]}"
    if kind is bool or kind is str:
        return "" if isinstance(value, kind) else f"expected {NAMES[kind]}"
    if isinstance(kind, type):
        return ""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            return ""
        of_each = [inner[0]] * len(value) if origin is not tuple or inner[-1] is Ellipsis else inner
        faults = ((n, unfit(of, item)) for n, (of, item) in enumerate(zip(of_each, value, strict=False), 1))
        return next((f"item {n}: {fault}" for n, fault in faults if fault), "")
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return ""
        faults = ((key, unfit(inner[1], item)) for key, item in value.items())
        return next((f"{key}: {fault}" for key, fault in faults if fault), "")
    return ""


def _of_several(kind: Any, value: Any) -> str:
    """The fault of `value` for one of several kinds that a key may have, where pydantic would name them all."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "" if value in inner else f"expected {_names(kind)[0]}"
    if origin in (tuple, list) and not isinstance(value, list | tuple):
        return "expected a list"
    return _unfit(kind, value)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, without what `Annotated` adds."""
    if isinstance(annotation, type):
        return (annotation,)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    return (annotation,)


def _names(kind: Any) -> tuple[str, ...]:
    if kind in NAMES:
        return (NAMES[kind],)
    origin = get_origin(kind)
    if origin is Literal:
        return tuple(repr(choice) for choice in get_args(kind))
    return ("a list" if origin in (tuple, list) else "a mapping",)


def shown(value: object) -> str:
    """A value as its author wrote it, with its kind where that is easily mistaken: `false`, `text 'off'`, `a list`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"text {value!r}" if len(value) <= _LONGEST else f"text {value[:_LONGEST]!r}..."
    if isinstance(value, int | float):
        number = repr(value)
        return number if len(number) <= _LONGEST else f"{number[:_LONGEST]}..."
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        return f"a mapping of {keys[:_LONGEST]}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        plain = len(value) <= _LONGEST and not any(isinstance(item, Mapping | list | tuple) for item in value)
        text = f"[{', '.join(map(shown, value))}]" if plain else ""
        return f"the list {text}" if plain and len(text) <= _LONGEST else f"a list of {len(value)}"
    return f"{type(value).__name__} {str(value)[:_LONGEST]}"
