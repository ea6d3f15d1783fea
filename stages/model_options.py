"""Which options a kind of reward or feature network takes: its `OPTIONS`, read without importing its module.

A module of `stages/rewards` says `OPTIONS = HpsOptions`, a settings class that stands in the same file. The planner
executes that class, what it derives from and the constants of the module, and nothing else of it, so that options are
checked before any job and without torch. Of a module without it, or with a class that refers to more, the options are
checked only once a model is loaded. Torch-free.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stages import plugins
from stages.errors import InputError
from stages.gives import GROUP, PACKAGE
from stages.params import validate
from stages.rewards.networks.options import KindOptions, checked

if TYPE_CHECKING:
    from stages.prepare.import_settings import ImportSettings

NAME = "OPTIONS"
LIBRARIES = (
    *("collections.abc", "pathlib", "typing", "pydantic"),
    *("stages.params", "stages.own_function", "stages.rewards.networks.options"),
)
"""Modules that a class of options may refer to."""


def check(model: ImportSettings, where: str) -> None:
    """Raise InputError that starts with `where` for options that the kind of a model does not take."""
    if (kind := declared(model.kind)) is not None:
        files = bool(model.folder or model.file or model.hub)
        checked(kind, model.options, model.of, files, f"{where}.options")


def check_files(model: ImportSettings, files: Sequence[Path], where: str) -> None:
    """Raise InputError that starts with `where` where the files of a model lack what its options name."""
    if (kind := declared(model.kind)) is not None:
        try:
            validate(kind, model.options, f"{where}.options").check_files(files)
        except InputError as error:
            said = str(error)
            raise InputError(said if said.startswith(where) else f"{where}: {said}") from None


@cache
def declared(kind: str) -> type[KindOptions] | None:
    """The class of options of `kind`; None where it says none, or one that cannot be had without importing it."""
    named, file = plugins.assigned(PACKAGE, GROUP, kind, NAME), plugins.source(PACKAGE, GROUP, kind)
    if not isinstance(named, ast.Name) or file is None:
        return None
    space: dict[str, object] = {"__name__": f"{PACKAGE}.{kind}"}
    taken = ast.Module(list(_harmless(ast.parse(Path(file).read_bytes()))), [])
    try:
        exec(compile(taken, file, "exec", dont_inherit=True), space)
    except Exception:
        return None
    found = space.get(named.id)
    return found if isinstance(found, type) and issubclass(found, KindOptions) else None


def _harmless(module: ast.Module) -> Iterator[ast.stmt]:
    """Imports of the libraries, constants that are written out, and classes of settings."""
    settings = {"Settings", "KindOptions", "NoOptions", "Options"}
    for node in module.body:
        known = isinstance(node, ast.ImportFrom) and node.module in LIBRARIES and not node.level
        if isinstance(node, ast.ClassDef) and not settings.isdisjoint(map(ast.unparse, node.bases)):
            settings.add(node.name)
            yield node
        elif known or _written_out(node):
            yield node


def _written_out(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError):
        return False
    return True
