"""Reading a study file (`params.yaml` or one of `studies/*.yaml`).

A study file has one section per stage. A stage validates its own section only, with the pydantic model in its own
`settings.py`, so that a new key of one stage touches no other stage. The whole study is composed in
`stages/study.py`, which the planner uses to refuse a bad file before any work starts. No torch in here.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from stages.errors import InputError
from stages.kinds import shown, unfit
from stages.mappings import read_yaml


class Settings(BaseModel):
    """Base of every settings model: unknown keys are refused, numbers are finite, values never change after reading.

    No value is made of another kind: a number is never text or a boolean, a boolean never text or a number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_their_kinds(cls, values: Any) -> Any:
        for name, about in cls.model_fields.items() if isinstance(values, Mapping) else ():
            key = about.alias or name
            if key in values and (fault := unfit(about.annotation, values[key])):
                raise PydanticCustomError("kind", "{fault}", {"key": key, "fault": fault})
        return values


S = TypeVar("S", bound=BaseModel)

PLAIN = {
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "expected a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "expected a mapping"),
    "int_from_float": "expected a whole number",
    "finite_number": "expected a finite number",
}
"""What some of pydantic's errors are called in terms of a study file, by their type."""


KINDS = ("tuple[", "list[", "literal[", "constrained-")
"""How pydantic begins the names of the kinds of a key that may have several."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: `; did you mean 'refl'?`, or the list of what is known when nothing is near."""
    names = sorted(known)
    if not names:
        return "; there is none here"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:
        return f"; known: {', '.join(names)}"
    alike = unicodedata.normalize("NFKC", close[0]) == unicodedata.normalize("NFKC", name)  # alike on the screen
    return f"; did you mean {ascii(close[0]) if alike else repr(close[0])}?"


def require_known(names: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    """Raise InputError that starts with `where` for the first of `names` that is not among the `known` ones, each a
    `what` (a model, say).
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise InputError(f"{where}: unknown {what} {name!r}{nearest(name, known)}")


def read_study(path: str | Path) -> dict[str, Any]:
    """The study file as plain nested dictionaries.

    Raises InputError when the file is missing, is not YAML, has a key twice, or is not a mapping of sections.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such study file (expected a params.yaml; see studies/)") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected a study file in it (such as params.yaml)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        study = deepcopy(_parsed(text, str(path)))
    except RecursionError:
        raise InputError(f"{path}: mappings or lists are nested too deeply for a study") from None
    if not isinstance(study, dict):
        raise InputError(f"{path}: expected a mapping with one section per stage, found {shown(study)}")
    return study


@lru_cache(maxsize=2)
def _parsed(text: str, where: str) -> Any:
    """What a study file says; sections of one file are read one after another."""
    return read_yaml(text, where)


def validate(model: type[S], values: Any, where: str) -> S:
    """`values` as a `model`; the first thing that is wrong becomes a one-line InputError that starts with `where`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(describe(error, model, where)) from None


@dataclass(frozen=True)
class _Given:
    """Values as they are written: `1` and `1.0` are two."""

    text: str
    values: Any = field(compare=False)


def validate_again(model: type[S], values: Any, where: str) -> S:
    """As `validate`, for settings that many checks of a study ask for: the same values are looked at once. Validators
    depend on the values and on what is installed, never on other files. Faults are not remembered.
    """
    try:
        return _settled(model, _Given(repr(values), values))  # type: ignore[return-value]
    except ValidationError as error:
        raise InputError(describe(error, model, where)) from None


@lru_cache(maxsize=1024)
def _settled(model: type[BaseModel], given: _Given) -> BaseModel:
    return model.model_validate(deepcopy(given.values))  # so that nobody changes what is remembered


def section(path: str | Path, name: str, model: type[S], study: dict[str, Any] | None = None) -> S:
    """Section `name` of the study at `path`, validated; `name` may be dotted (`methods.refl`).

    `study` is what stands in the file, where it was read before.
    """
    values: Any = read_study(path) if study is None else study
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            known = values if isinstance(values, dict) else ()
            raise InputError(f"{path}: {name}: there is no {part!r} here{nearest(part, map(str, known))}")
        values = values[part]
    return validate_again(model, values, f"{path}: {name}")


def describe(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first failure of a validation in one line: the dotted key, what is wrong, the nearest known key or kind."""
    every = error.errors()
    first = every[0]
    if first["type"] == "missing":  # a key that is misspelt is missing, too
        first = next((each for each in every if each["type"] == "extra_forbidden"), first)
    if first["type"] == "extra_forbidden":
        above, known = _follow(model, first["loc"][:-1])
        key = str(first["loc"][-1])
        return f"{_spot(where, [*above, key])}: unknown key{nearest(key, known)}"
    context = first.get("ctx", {})
    keys = [context["key"]] if first["type"] == "kind" else []
    spot = _spot(where, [*_follow(model, first["loc"])[0], *keys])
    if first["type"] == "union_tag_invalid":
        kinds = str(context["expected_tags"]).replace("'", "").split(", ")
        return f"{spot}.kind: unknown kind {context['tag']!r}{nearest(str(context['tag']), kinds)}"
    if first["type"] == "union_tag_not_found":
        return f"{spot}: expected a mapping with a 'kind', found {shown(first['input'])}"
    message = PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] in ("too_short", "too_long"):
        least = first["type"] == "too_short"
        count = context["min_length" if least else "max_length"]
        message = f"expected at {'least' if least else 'most'} {count} item{'s' if count != 1 else ''}"
    given = "" if first["type"] in ("missing", "value_error", "kind") else f", found {shown(first['input'])}"
    return f"{spot}: {message[:1].lower()}{message[1:]}{given}"


def _spot(where: str, keys: list[str]) -> str:
    """`params.yaml: finetune.steps`, from `params.yaml: finetune` as well as from `params.yaml:`."""
    if not keys:
        return where.removesuffix(":")
    shown = ".".join(key if key.isprintable() else ascii(key)[1:-1] for key in keys)  # an invisible letter is a fault
    return f"{where} {shown}" if where.endswith(":") else f"{where}.{shown}"


def _follow(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The keys of `loc` as the user wrote them, and the field names known at its end.

    Pydantic puts the tag of a union's member into `loc` as well, or its kind; no such key stands in the file, so it is
    left out.
    """
    members, keys = [model], []
    for part in loc:
        if isinstance(part, str) and part.startswith(KINDS):
            continue
        tagged = [member for member in members if part in _kinds(member)] if len(members) > 1 else []
        if tagged:
            members = tagged
            continue
        keys.append(str(part))
        field = next((fields[str(part)] for fields in map(_fields, members) if part in fields), None)
        members = _models(field.annotation) if field else members
    return keys, [name for member in members for name in _fields(member)]


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the key that stands in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _kinds(model: type[BaseModel]) -> tuple[object, ...]:
    """The tags of a member of a union: the values of its key `kind`, or its `TAG` where the file has no such key."""
    kind = model.model_fields.get("kind")
    own = getattr(model, "TAG", None)
    return (own,) if own else getattr(kind.annotation, "__args__", ()) if kind else ()


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings models that an annotation mentions: itself, members of a union, items of a list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]
