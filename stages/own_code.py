"""Functions of one's own that a study names as `package.module:function`: the files of their code, found as Python
finds them and read, never run. Torch-free.

A module found from the folder in which the stages run (where Python looks first) stands for itself and for all modules
found there that it imports, directly or not; a module of an installed package for its own file alone.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from stages import plugins
from stages.errors import InputError
from stages.imports import PROJECT, imported

PACKAGE, GROUP, NAME = "stages.rewards", "imagerefl.rewards", "CODE"


@dataclass(frozen=True)
class Files:
    """Files of code, by their names below `folder`."""

    folder: Path
    names: tuple[str, ...]


def of_model(kind: str, options: Mapping[str, object], where: str, root: Path | None = None) -> Files | None:
    """The code of the function that a model names; None where its kind takes none, or where no function is named.

    A module of `stages/rewards` says `CODE = "function"` where its option of that name is a function of one's own.
    `root` is the folder in which stages run, by default the working directory. Raises InputError that starts with
    `where` for a module that is not found, and for a function that its source does not mention.
    """
    option = plugins.constant(PACKAGE, GROUP, kind, NAME)
    place = options.get(str(option)) if option else None
    if not isinstance(place, str) or ":" not in place:
        return None
    return of_function(place, f"{where}.options.{option}", root)


def of_function(place: str, spot: str, root: Path | None = None) -> Files:
    """The code of the function `package.module:function`; raises InputError that starts with `spot` as `of_model`."""
    root = root or Path.cwd()
    module, _, function = place.partition(":")
    own = _executed(module, [str(root)])
    found = _executed(module, sys.path) if own is None else own
    if found is None and not _otherwise_known(module):
        raise InputError(f"{spot}: there is no module {module!r} in {root} or among installed ones")
    if not found:
        return Files(root, ())
    name, file = found[-1]
    if name == module and not _has(_tree(file, spot), function):
        raise InputError(f"{spot}: {file} defines no {function!r}")
    if own is not None:
        return Files(root, tuple(_closure(module, root, spot)))
    folder = file.parents[name.count(".") + (file.name == "__init__.py")]
    return Files(folder, (file.relative_to(folder).as_posix(),))


def _closure(module: str, root: Path, spot: str) -> Iterator[str]:
    """Names below `root` of the files of `module` and of what it imports from there, in order."""
    found: set[Path] = set()
    queue = [module]
    looked: set[str] = set()
    while queue:
        name = queue.pop()
        if name in looked or name.partition(".")[0] == PROJECT:
            continue
        looked.add(name)
        for dotted, file in _executed(name, [str(root)]) or ():
            if file not in found:
                found.add(file)
                for node in ast.walk(_tree(file, spot)):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        queue += imported(node, dotted, file.name == "__init__.py")
    yield from sorted(file.relative_to(root).as_posix() for file in found)


def _executed(module: str, folders: Sequence[str]) -> list[tuple[str, Path]] | None:
    """The modules that importing `module` from these folders executes, its parents first, by dotted name and file;
    those without a file of source left out. None where it is not there.
    """
    found: list[tuple[str, Path]] = []
    places: Sequence[str] | None = folders
    parts = module.split(".")
    for number, part in enumerate(parts, 1):
        spec = PathFinder.find_spec(part, places) if places else None
        if spec is None:
            return None
        if spec.origin is not None and spec.origin.endswith(".py"):
            found.append((".".join(parts[:number]), Path(spec.origin)))
        places = list(spec.submodule_search_locations or ())
    return found


def _otherwise_known(module: str) -> bool:
    """Whether a module that no folder holds may be there all the same: built in, or of a package that another finder
    knows.
    """
    top = module.partition(".")[0]
    if PathFinder.find_spec(top, sys.path) is not None:
        return False
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _tree(file: Path, spot: str) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise InputError(f"{spot}: {file}, line {error.lineno}: not valid Python: {error.msg}") from None
    except ValueError as error:
        raise InputError(f"{spot}: {file}: not valid Python: {error}") from None


def _has(tree: ast.Module, name: str) -> bool:
    """Whether a module may have a name: it binds it, or binds names that its source does not show."""
    for node in ast.walk(tree):
        bound = getattr(node, "name", None), getattr(node, "asname", None), getattr(node, "id", None)
        if not {name, "*", "__getattr__"}.isdisjoint(bound):
            return True
    return False
