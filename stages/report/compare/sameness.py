"""Whether numbers of two studies may stand on one page: only those of one evaluation, else what differs is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.errors import InputError
from stages.measure.evaluation import evaluation_of, specification_of

SETTINGS = {
    "prompts": "evaluation prompts (curate)", "n_prompts": "number of evaluation prompts (curate)",
    "samples": "sample.samples_per_prompt", "resolution": "size of the images", "seed": "study.seed",
    "sampling": "sample", "models": "model", "sets": "measure, of set metrics", "spaces": "measure.features",
    "formulas": "version of the metrics", "released": "measure.as_released", "passing": "measure.passing",
}  # fmt: skip
"""By the field of an evaluation, the setting of a study that decides it."""
FIRST = ("n_prompts", "samples", "resolution", "seed", "sampling", "models")
"""Fields that are named before others, since others may differ because of them."""


def require_one_evaluation(tables: Sequence[Path]) -> str:
    """The evaluation id that all tables of measures carry; raises InputError that names what differs."""
    first = tables[0]
    known = evaluation_of(first)
    for other in tables[1:]:
        if evaluation_of(other) == known:
            continue
        name, mine, theirs = next(differences(specification_of(first), specification_of(other)))
        raise InputError(
            f"{other}: {name} is {theirs}, but {mine} in {first}; expected studies of one evaluation, "
            "measure both with the same setting"
        )
    return known


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Every setting in which two specifications of evaluations differ, with its value in each, as words."""
    names = dict.fromkeys([*FIRST, *one, *other])
    for name in names:
        sides = one.get(name), other.get(name)
        if any(isinstance(side, Mapping) for side in sides):  # a field that is left out is an empty one
            sides = sides[0] or {}, sides[1] or {}
        for path, mine, theirs in _leaves(*sides, ()):
            yield _named(name, path), _value(mine), _value(theirs)
    yield "the evaluation id", "another", "of an older version"  # where a version added a field with its default


def _named(field: str, path: tuple[str, ...]) -> str:
    said = SETTINGS.get(field, field)
    if field == "models":
        return f"{said} {path[0]!r}" + (f" ({'.'.join(path[1:])})" if path[1:] else "") if path else said
    return ".".join([said, *path])


def _leaves(one: Any, other: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys([*one, *other]):
            yield from _leaves(one.get(name), other.get(name), (*path, str(name)))
    elif one != other:
        yield path, one, other


def _value(value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, Mapping):
        return str(value["digest"]) if "digest" in value else "there"
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)
