"""Plug-ins: one module per kind, found by its file name in a package here or through an installed entry point.

Listing imports nothing, so a study can be checked without torch. An entry point names a module with the same contents
as a module of the package: `hps = "my_package.hps"` under `[project.entry-points."imagerefl.rewards"]`.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from stages.errors import InputError
from stages.params import nearest

BLOCKS = (ast.If, ast.Try, ast.With, ast.ExceptHandler)
"""Statements whose parts are of the same scope."""


def names(package: str, group: str, besides: Collection[str] = ()) -> tuple[str, ...]:
    """Every known kind: the modules of `package` except those named in `besides`, then the entry points of `group`.

    A package inside `package` is no kind: it holds what kinds share.
    """
    return tuple(sorted({*_files(package, frozenset(besides)), *_entry_points(group)}))


def every(package: str) -> tuple[str, ...]:
    """Every kind of `package` itself, for code that imports all: a new one then concerns every job that does so."""
    return names(package, "")


def load(package: str, group: str, kind: str, what: str, besides: Collection[str] = ()) -> ModuleType:
    """The module of `kind`; a file of the package goes before an entry point of the same name.

    Raises InputError for an unknown kind, as `<what>: unknown kind ...` with the nearest known one, and for an entry
    point that cannot be imported.
    """
    if kind in _files(package, frozenset(besides)):
        return import_module(f"{package}.{kind}")
    if kind not in _entry_points(group):
        raise InputError(f"{what}: unknown kind {kind!r}{nearest(kind, names(package, group, besides))}")
    found = _entry_points(group)[kind]
    try:
        return found.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"{what}: entry point {found.value!r} of kind {kind!r} cannot be imported: {error}") from None


def source(package: str, group: str, kind: str) -> str | None:
    """The source file of the module of `kind`, which is not imported; None where it has none, or cannot be found."""
    if kind in _files(package, frozenset()):
        files = (Path(folder, f"{kind}.py") for folder in _folders(package))  # find_spec would import the package
        return next((str(file) for file in files if file.is_file()), None)
    if kind in _entry_points(group):
        name = _entry_points(group)[kind].module
    else:
        return None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec and spec.origin and spec.origin.endswith(".py") else None


def assigned(package: str, group: str, kind: str, name: str) -> ast.expr | None:
    """What the module of `kind` assigns to `name` at its top level, as an expression; None where it does not."""
    file = source(package, group, kind)
    for node in _parsed(Path(file).read_bytes()).body if file else ():
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return node.value
    return None


def defined(package: str, group: str, kind: str) -> frozenset[str] | None:
    """The names that the module of `kind` has at its top level, which is not imported; None where that is not known:
    its source cannot be found, it imports names that are not written out, or the entry point names no module.
    """
    file = source(package, group, kind)
    if file is None or (kind not in _files(package, frozenset()) and _entry_points(group)[kind].attr):
        return None
    found: set[str] = set()
    for node in _top_level(_parsed(Path(file).read_bytes()).body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return None if "*" in found else frozenset(found)


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those within `if`, `try` and `with` too."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "finalbody", "handlers") if isinstance(node, BLOCKS) else ():
            yield from _top_level(getattr(node, inner, ()))


def constant(package: str, group: str, kind: str, name: str) -> object:
    """A constant of the module of `kind`, which is not imported; None where it is not written out."""
    found = assigned(package, group, kind, name)
    return found.value if isinstance(found, ast.Constant) else None


@lru_cache(maxsize=256)
def _parsed(content: bytes) -> ast.Module:
    return ast.parse(content)


def _folders(package: str) -> list[str]:
    spec = find_spec(package)
    return list((spec.submodule_search_locations if spec else None) or ())


@lru_cache
def _files(package: str, besides: frozenset[str]) -> frozenset[str]:
    found = pkgutil.iter_modules(_folders(package))
    return frozenset(module.name for module in found if not module.ispkg) - besides


@lru_cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
