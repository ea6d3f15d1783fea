"""What a source file of the project imports, and which plug-ins it loads: read from its syntax, nothing is run.

Parsing 200 files takes a second, and every planning needs it, so what was read is remembered in `.cache/imports.json`
until a file has another size or time. Torch-free.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

from stages.errors import InputError
from stages.runtime import whole_file

PROJECT = "stages"
MEMORY = ".cache/imports.json"
"""Where contents are remembered, below the root of the project."""
VERSION = 1
"""Of the memory; goes up when `Contents` or the way they are read changes."""


@dataclass
class Contents:
    """Dotted names that a module imports, which may be modules or not; texts that may name packages of plug-ins;
    plug-ins that are always loaded, packages of which all are; and whether it loads plug-ins.
    """

    imports: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    always: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    loads: bool = False


def stamp(file: Path) -> tuple[int, int]:
    """What tells the contents of a file apart: its time and size."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


class Sources:
    """The source files below `root`, as they are when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
            for path in sorted((root / PROJECT).rglob("*.py"))
        }
        self._memory = _remembered(root)
        self._new = False

    def file(self, module: str) -> Path | None:
        """The file of a dotted module or package, None for a name that is neither."""
        return self.files.get(module)

    def modules(self, package: str) -> list[str]:
        """The modules of a package by their dotted names, without those that begin with `_`."""
        below = [name for name in self.files if name.rpartition(".")[0] == package]
        return sorted(name for name in below if self.files[name].name not in ("__init__.py", "__main__.py"))

    def contents(self, module: str, functions: tuple[str, ...] = ()) -> Contents:
        """What a module holds; with `functions`, its top level with only those and the functions they refer to."""
        file = self.files[module]
        if functions:
            return _contents(file, stamp(file), module, functions)
        key, now = file.relative_to(self.root).as_posix(), list(stamp(file))
        known = self._memory.get(key)
        if known is None or known[0] != now:
            self._memory[key] = known = (now, _contents(file, stamp(file), module, ()))
            self._new = True
        return known[1]

    def remember(self) -> None:
        """Keep what was read for the next process, where the disk allows it."""
        if not self._new:
            return
        there = set(self.files.values())
        rows = {
            key: [now, *(sorted(value) if isinstance(value := getattr(found, each.name), set) else value
                         for each in fields(Contents))]
            for key, (now, found) in self._memory.items() if (self.root / key) in there
        }  # fmt: skip
        with suppress(OSError, InputError), whole_file(self.root / MEMORY) as partial:
            partial.write_text(json.dumps({"version": VERSION, "files": rows}), encoding="utf-8")
        self._new = False


def _remembered(root: Path) -> dict[str, tuple[list[int], Contents]]:
    """By file: its stamp and contents, of an earlier process; nothing where they cannot be read."""
    try:
        kept = json.loads((root / MEMORY).read_text(encoding="utf-8"))
        if kept["version"] != VERSION:
            return {}
        return {
            key: (now, Contents(set(imports), set(packages), set(always), set(whole), bool(loads)))
            for key, (now, imports, packages, always, whole, loads) in kept["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@cache
def _contents(file: Path, stamp: tuple[int, int], module: str, functions: tuple[str, ...]) -> Contents:
    found = Contents()
    for node in _executed(_body(_tree(file, stamp), functions)):
        match node:
            case ast.Import() | ast.ImportFrom():
                found.imports.update(imported(node, module, file.name == "__init__.py"))
            case ast.Constant(value=str(text)) if text.startswith(f"{PROJECT}."):
                found.packages.add(text)
            case ast.Assign(targets=[ast.Name(id="ALWAYS")]) | ast.AnnAssign(target=ast.Name(id="ALWAYS")):
                found.always.update(_texts(node))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="plugins"), attr="every")):
                found.whole.update(_texts(node))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="plugins"), attr="load")):
                found.loads = True
            case _:
                pass
    return found


@cache
def _tree(file: Path, stamp: tuple[int, int]) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError):  # the job itself will say so
        return ast.Module([], [])


def parents(module: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`: importing the last executes them all."""
    parts = module.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def imported(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a node of `module` imports; a name in `from x import name` may be a module or not."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from parents(alias.name)
        return
    base = node.module or ""
    if node.level:
        above = module.split(".")[: len(module.split(".")) - node.level + is_package]
        base = ".".join([*above, *([base] if base else [])])
    yield from parents(base)
    yield from (f"{base}.{alias.name}" for alias in node.names)


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
