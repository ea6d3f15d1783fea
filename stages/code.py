"""Which code decides what a job makes: read from the sources, nothing is run.

A job executes its stage's `__main__` and what that imports, directly or not. Of packages of plug-ins (those that
`stages.plugins` loads from) it executes the modules whose names stand among the texts of its settings or in a constant
`ALWAYS`, all of them where `plugins.every` asks for all, and what those import. So a new or edited plug-in concerns the
jobs that name it and no others. Torch-free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages.imports import PROJECT, Sources, parents, stamp

ROOT = Path(__file__).resolve().parents[1]
OBSERVERS = ("stages.lineage",)
"""Packages that record what jobs do and change nothing of it."""
GROUPS = "imagerefl."
"""How the entry point groups of plug-ins begin."""


def digests(
    entry: str, functions: tuple[str, ...] = (), texts: frozenset[str] = frozenset(), root: Path = ROOT
) -> Mapping[str, str]:
    """Of every file that a job executes, the first 16 digits of its SHA-256.

    `entry` is the module that is run, of which only `functions` and what they refer to count where some are named.
    `texts` are the texts of the job's settings (`texts_of`). Files of the project are named relative to `root`, those
    of installed plug-ins by the name of their distribution's entry point.
    """
    return _digests(entry, functions, texts & _possible(root), root)


@cache
def _digests(entry: str, functions: tuple[str, ...], texts: frozenset[str], root: Path) -> Mapping[str, str]:
    inside = {file.relative_to(root).as_posix(): file for file in closure(entry, functions, texts, root)}
    _sources(root).remember()
    outside = {name: file for kind in texts for name, file in _installed().get(kind, ())}
    return {name: _digest(file, stamp(file)) for name, file in sorted((inside | outside).items())}


@cache
def _possible(root: Path) -> frozenset[str]:
    """Everything that a plug-in may be called: a study has thousands of runs and few kinds."""
    return frozenset([*(file.stem for file in (root / PROJECT).rglob("*.py")), *_installed()])


def texts_of(settings: Any) -> frozenset[str]:
    """Every text in `settings`, keys of mappings included."""
    if isinstance(settings, str):
        return frozenset([settings])
    if isinstance(settings, Mapping):
        return frozenset().union(*(texts_of(part) for item in settings.items() for part in item))
    if isinstance(settings, (Sequence, set, frozenset)) and not isinstance(settings, bytes):
        return frozenset().union(*map(texts_of, settings))
    return frozenset()


def closure(
    entry: str, functions: tuple[str, ...] = (), texts: Collection[str] = (), root: Path = ROOT
) -> frozenset[Path]:
    """Files of the project that a job may execute; empty `__init__.py` files do not count.

    Imports inside functions count, those under TYPE_CHECKING do not. Where any of the modules loads plug-ins, every
    package whose name stands as a text in one of them counts as a package of plug-ins.
    """
    sources = _sources(root)
    if sources.file(entry) is None:
        raise ModuleNotFoundError(entry)
    found: set[Path] = set()
    packages: set[str] = set()
    kinds: set[str] = set(texts)
    looked: set[str] = set()
    loads = False
    queue = [(entry, functions)]
    while queue:
        module, only = queue.pop()
        file = sources.file(module)
        if file is not None and file not in found and not module.startswith(OBSERVERS):
            found.add(file)
            contents = sources.contents(module, only)
            loads, packages, kinds = loads or contents.loads, packages | contents.packages, kinds | contents.always
            whole = [name for package in contents.whole for name in sources.modules(package)]
            queue += [(name, ()) for name in (*contents.imports, *whole)]
        if not queue and loads:
            plugged = {f"{package}.{kind}" for package in packages for kind in kinds} - looked
            looked |= plugged
            queue = sorted((part, ()) for name in plugged if sources.file(name) for part in parents(name))
    return frozenset(file for file in found if file.name != "__init__.py" or file.read_text(encoding="utf-8").strip())


@cache
def _sources(root: Path) -> Sources:
    return Sources(root)


@cache
def _digest(file: Path, stamp: tuple[int, int]) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


@cache
def _installed() -> dict[str, list[tuple[str, Path]]]:
    """By kind: files of installed plug-ins of that name, each with what it is called."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for group in sorted(group for group in entry_points().groups if group.startswith(GROUPS)):
        for point in entry_points(group=group):
            try:
                spec = find_spec(point.module)
            except (ImportError, ValueError):  # said when the plug-in is loaded
                continue
            if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
                found.setdefault(point.name, []).append((f"{group}:{point.value}", Path(spec.origin)))
    return found
