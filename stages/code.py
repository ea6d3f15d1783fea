"""Which code decides what a job makes: read from the sources, nothing is run.

A job executes its stage's `__main__` and what that imports, directly or not. Of packages of plug-ins (those that
`stages.plugins` loads from) it executes the modules whose names stand among the texts of its settings or in a constant
`ALWAYS`, all of them where `plugins.every` asks for all, and what those import. So a new or edited plug-in concerns the
jobs that name it and no others. Torch-free.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "stages"
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
    outside = {name: file for kind in texts for name, file in _installed().get(kind, ())}
    return {name: _digest(file, _stamp(file)) for name, file in sorted((inside | outside).items())}


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
    start = _file(root, entry)
    if start is None:
        raise ModuleNotFoundError(entry)
    found: set[Path] = set()
    packages: set[str] = set()
    kinds: set[str] = set(texts)
    looked: set[str] = set()
    loads = False
    queue = [(start, entry, functions)]
    while queue:
        file, module, only = queue.pop()
        if file not in found and not module.startswith(OBSERVERS):
            found.add(file)
            contents = _contents(file, _stamp(file), module, only)
            loads, packages, kinds = loads or contents.loads, packages | contents.packages, kinds | contents.always
            whole = [name for package in contents.whole for name in _modules(root, package)]
            names = [*contents.imports, *whole]
            queue += [(target, name, ()) for name in names if (target := _file(root, name)) is not None]
        if not queue and loads:
            plugged = {f"{package}.{kind}" for package in packages for kind in kinds} - looked
            looked |= plugged
            executed = sorted({part for name in plugged if _file(root, name) is not None for part in _parents(name)})
            queue = [(target, name, ()) for name in executed if (target := _file(root, name)) is not None]
    return frozenset(file for file in found if file.name != "__init__.py" or file.read_text(encoding="utf-8").strip())


@dataclass
class _Contents:
    """Dotted names that a module imports, which may be modules or not; texts that may name packages of plug-ins;
    plug-ins that are always loaded, packages of which all are; and whether it loads plug-ins.
    """

    imports: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    always: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    loads: bool = False


@cache
def _contents(file: Path, stamp: tuple[int, int], module: str, functions: tuple[str, ...]) -> _Contents:
    """What a module holds; with `functions`, its top level with only those and the functions they refer to."""
    found = _Contents()
    for node in _executed(_body(_tree(file, stamp), functions)):
        found.imports.update(_imported(node, module, file.name == "__init__.py"))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{PROJECT}."):
            found.packages.add(node.value)
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "ALWAYS" for target in node.targets):
            found.always.update(_texts(node.value))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "plugins.every":
            found.whole.update(_texts(node))
        found.loads = found.loads or (isinstance(node, ast.Call) and ast.unparse(node.func) == "plugins.load")
    return found


@cache
def _tree(file: Path, stamp: tuple[int, int]) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError):  # the job itself will say so
        return ast.Module([], [])


def _stamp(file: Path) -> tuple[int, int]:
    """What tells the contents of a file apart within one process."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


@cache
def _digest(file: Path, stamp: tuple[int, int]) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _file(root: Path, module: str) -> Path | None:
    """The file of a dotted module or package of the project, None for a name that is neither."""
    first, *rest = module.split(".")
    if first != PROJECT or not all(part.isidentifier() for part in rest):
        return None
    path = root.joinpath(first, *rest)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a node of `module` imports; a name in `from x import name` may be a module or not."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _parents(alias.name)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = module.split(".")[: len(module.split(".")) - node.level + is_package]
            base = ".".join([*above, *([base] if base else [])])
        yield from _parents(base)
        yield from (f"{base}.{alias.name}" for alias in node.names)


def _parents(module: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`: importing the last executes them all."""
    parts = module.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _body(tree: ast.Module, functions: tuple[str, ...]) -> list[ast.stmt]:
    """All of a module, or its top level with only the named functions and those that they refer to; all of it, too,
    where one of them is not there.
    """
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not functions or not defined.keys() >= set(functions):
        return tree.body
    wanted, queue = set(), list(functions)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name) and node.id in defined]
    return [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name in wanted]


def _texts(node: ast.AST) -> set[str]:
    constants = (part for part in ast.walk(node) if isinstance(part, ast.Constant))
    return {part.value for part in constants if isinstance(part.value, str)}


def _modules(root: Path, package: str) -> list[str]:
    """The modules of a package of the project by their dotted names."""
    files = root.joinpath(*package.split(".")).glob("[!_]*.py")
    return sorted(f"{package}.{file.stem}" for file in files)


def _executed(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node below `body` but those that only a type checker sees."""
    queue: list[ast.AST] = list(body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
            continue
        yield node
        queue += ast.iter_child_nodes(node)


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
