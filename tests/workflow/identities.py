"""A study with an entry of every kind, a change for each of its keys, and what the jobs of a study are known by."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import pytest
from project import small_study

from stages import lineage, plugins, resume
from stages.decided.auto import stand_in
from stages.errors import InputError
from stages.finetune.method import PACKAGE as METHODS
from stages.sample.resolve import STRATEGIES
from tests.settings_classes import every_class
from workflow.files import Files, fill
from workflow.jobs import AUTO
from workflow.plan import Plan
from workflow.stage import Stage

MORE: dict[str, dict[str, Any]] = {
    "aig": {"p": [1, 3]}, "combined": {"k": [4, 6]}, "rlg": {"w": [0.5]}, "fusion": {"k": "auto"},
    "best_of_n": {"reward": "proxy", "n": [2]}, "fk": {"reward": "proxy", "n": [2]}, "guidance": {"scales": [1.5]},
    "code": {"reward": "proxy", "n": [2]}, "svdd": {"reward": "proxy", "m": [2]},
    "dlbs": {"reward": "proxy", "b": [2]}, "dsearch": {"reward": "proxy", "m": [2]},
    "das": {"reward": "proxy", "n": [2]}, "dts": {"reward": "proxy", "m": [2]},
    "dts_star": {"reward": "proxy", "m": [2]}, "npo": {"s": [2.0], "negative": "imagerefl-s0"},
    "chats": {"s": [2.0], "lose": "imagerefl-s0"}, "density": {"q": [0.4]},
    "condition_noise": {"k": [3]}, "fmtt": {"reward": "proxy", "n": [2]},
    "ebama": {"a": [5.0], "phrases": {"a red circle": [[1, 2]]}},
    "for_annotator": {"names": ["annotator 0", "annotator 1"]}, "few_steps": {"steps": [2]},
    "sgt": {"c": [5.5], "concepts": {"a red circle": ["red circle"]}}, "img": {"n": [1], "critic": "oracle"},
    "reno": {"weights": {"proxy": 5.0}, "n": [2]},
    "carinox": {"weights": {"proxy": 5.0}, "n": [2],
                "categories": {"round": {"pattern": "circle", "weights": {"proxy": 2.0}}}},
}  # fmt: skip
"""Keys that an entry of these kinds must have."""

SAMPLED_BY = {"for_annotator": ("ppd",)}
"""Kinds of methods without which a strategy of a kind is refused."""
OF_LATENTS = ("lpo",)
"""Kinds of methods whose reward judges noisy latents: it has no features, which other methods ask of the one reward."""
METHOD_KINDS = tuple(kind for kind in plugins.names(METHODS, "") if kind not in OF_LATENTS)
STRATEGY_KINDS = tuple(plugins.names(STRATEGIES, ""))
_small_study = cache(small_study)


def full_study(methods: Iterable[str] = METHOD_KINDS, strategies: Iterable[str] = STRATEGY_KINDS) -> dict[str, Any]:
    """The small study, with methods and strategies of these kinds, and a model trained by every recipe but a base."""
    study = deepcopy(_small_study())
    for kind in methods:
        study["methods"][kind] = {"kind": kind} | study["methods"].get(kind, {})
        study["runs"][f"{kind}-s0"] = {"method": kind, "seed": 0}
    if "online" in study["methods"]:
        study["methods"]["online"]["inner"] = {"kind": "gradient"}
    study["measure"]["features"]["proxy"] = "embedding"
    study["sample"]["strategies"] |= {f"{kind}_": {"kind": kind} | MORE.get(kind, {}) for kind in strategies}
    study["curate"]["pairs"] |= {"captions": True, "annotators": 4}  # for methods that may take them
    if "diffusion_dpo" in study["methods"]:
        study["select"] = {"steps": [{"kind": "majority", "by": ["proxy"]}, {"kind": "too_similar"}]}
        study["renoise"] = {}
    study["decided"] = {"diversity": "patch_diversity"}
    study["methods"]["refl"] |= {"middle": "auto"}
    study["prepare"]["train"] |= {"vae": {"code": {}}, "clip": {"more": {}}, "consistency": {"student": {}}}
    study["prepare"]["train"] |= {"latent": {"noisy": {}}, "pal": {"plural": {"features": "clip"}}}
    return study


def study_for(key: str) -> dict[str, Any]:
    """A study in which `key` stands; for a key of a method or strategy no other kinds of either are added."""
    first, *rest = key.split(".")
    if first == "methods":
        return full_study([kind for kind in METHOD_KINDS if kind == rest[0]], ())
    if key.startswith("sample.strategies."):
        mine = [kind for kind in STRATEGY_KINDS if f"{kind}_" == rest[1]]
        return full_study([method for kind in mine for method in SAMPLED_BY.get(kind, ())], mine)
    if key == "finetune.trainable":  # what PSO trains is always the whole network
        return full_study([kind for kind in METHOD_KINDS if kind != "pso"])
    return full_study((), ()) if first == "prepare" else full_study()


def _literals(annotation: Any) -> Iterator[tuple[Any, ...]]:
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
    for inner in get_args(annotation):
        yield from _literals(inner)


def _choices() -> list[set[str]]:
    """The texts that one key may have, of every key that has a few; and names of models and methods."""
    found = [{"proxy", "heldout"}, {"clip", "proxy"}, {"refl", "imagerefl"}]
    fields = (field for model in every_class() for field in model.model_fields.values())
    return found + [set(map(str, choices)) for field in fields for choices in _literals(field.annotation)]


CHOICES = _choices()


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key below `values` whose value is no mapping, and empty mappings."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, values


def candidates(value: Any) -> Iterator[Any]:
    """Other values that a key may have whose value is this one."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        near = (value + 1, value * 2, value / 2, value - 1, value * 0.9, value + 0.5, value * 4, value + 0.01)
        yield from (other for other in near if other != value)
    elif isinstance(value, str):
        yield from dict.fromkeys(text for texts in CHOICES if value in texts for text in sorted(texts - {value}))
    elif isinstance(value, list):
        if len(value) > 1:
            yield value[:-1]
        for place, item in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in candidates(item))
    elif value is None:
        yield from (1, 0.5, 2, True, "shapes", "clip", "proxy", "refl", [1, 3])


def changed(study: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The study with one key set."""
    made = deepcopy(study)
    spot = made
    for part in path[:-1]:
        spot = spot.setdefault(part, {})
        if not isinstance(spot, dict):
            raise KeyError(part)
    spot[path[-1]] = value
    return made


@dataclass(frozen=True)
class Known:
    """What a job's interrupted work belongs to, and the files that its record names."""

    settings: str
    kept: tuple[str, ...]
    recorded: tuple[str, ...]


class Begun(Exception):
    """The job has said what it is known by; nothing more of it is run."""


def known(plan: Plan, stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch) -> Known:
    """What a job is known by, from its own command line, up to where its work would begin."""
    seen: dict[str, Any] = {"settings": "", "kept": (), "recorded": ()}

    @contextmanager
    def record(**words: Any) -> Iterator[Any]:
        seen["recorded"] = tuple(map(str, words.get("inputs", ())))
        yield SimpleNamespace(parameters=lambda values: None, metrics=lambda *values: None, metric=lambda *values: None)

    def keep(*words: Any) -> Any:
        seen.update(settings=repr(words[4]), kept=tuple(map(str, words[5])))
        raise Begun

    if "decided" in plan.layout.needs:
        found = stand_in(plan.study.sample.steps)
        Path(plan.layout.out(AUTO)).parent.mkdir(parents=True, exist_ok=True)
        found.write(Path(plan.layout.out(AUTO)))
    with monkeypatch.context() as patch:
        patch.setattr(lineage, "job", record)
        patch.setattr(resume, "keep", keep)
        command = fill(Files(plan.layout).command(stage), name).replace("{P}", plan.layout.file).split()
        patch.setattr(sys, "argv", [stage.program, *command[3:]])
        with suppress(Begun):
            importlib.import_module(stage.module).main()
    return Known(seen["settings"], seen["kept"], seen["recorded"])


def write(study: Mapping[str, Any], name: str = "params.yaml") -> None:
    """Write a study file; JSON is YAML too, and quicker to write."""
    Path(name).write_text(json.dumps(study), encoding="utf-8")


def written(study: dict[str, Any], name: str = "params.yaml") -> Plan:
    """The study in a file of the working folder, checked; raises InputError where it is wrong."""
    write(study, name)
    made = Plan.read(name)
    assert made.values  # read now: the file is another one soon
    return made


def other(study: dict[str, Any], path: Sequence[str], value: Any, given: Sequence[Any] | None) -> Plan | None:
    """The plan of the study with another valid value of one key; None where none was found."""
    for candidate in candidates(value) if given is None else given:
        try:
            return written(changed(study, path, candidate))
        except (InputError, KeyError, TypeError):
            continue
    return None
