"""Which files of this project a stage executes, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = "stages"


class Sources:
    """The modules of the project at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trees: dict[Path, ast.Module] = {}

    def closure(self, module: str, functions: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> set[str]:
        """Files that running `module` may execute, relative to the root; empty `__init__.py` files do not count.

        Imports inside functions count, those under TYPE_CHECKING do not. With `functions`, only those and what they
        refer to are followed in the first module. Where any module loads plug-ins, every package of the project
        whose name stands as a string in one of them may be executed. Modules that start with one of `without` are
        not followed.
        """
        start = self._file(module)
        assert start is not None, f"no module {module}"
        found: set[Path] = set()
        packages: set[str] = set()
        loads = False
        queue = [(start, module, functions)]
        while queue or (loads and packages):
            if not queue:
                queue = [(file, name, ()) for package in packages for file, name in self._modules(package)]
                packages = set()
            file, current, only = queue.pop()
            if file in found or current.startswith(without):
                continue
            found.add(file)
            nodes = list(_executed(_body(self._tree(file), only)))
            loads = loads or any(map(_loads_plugins, nodes))
            packages |= {package for package in map(_string, nodes) if self._is_package(package)}
            imported = {name for node in nodes for name in _imported(node, current, file.name == "__init__.py")}
            queue += [(target, name, ()) for name in imported if (target := self._file(name))]
        kept = (file for file in found if file.name != "__init__.py" or self._tree(file).body)
        return {str(file.relative_to(self.root)) for file in kept}

    def _file(self, module: str) -> Path | None:
        """The file of a dotted module or package, None for a name that is neither."""
        path = self.root.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if module.split(".")[0] == PROJECT and file.is_file():
                return file
        return None

    def _tree(self, file: Path) -> ast.Module:
        if file not in self._trees:
            self._trees[file] = ast.parse(file.read_text())
        return self._trees[file]

    def _is_package(self, name: str) -> bool:
        return name.startswith(f"{PROJECT}.") and self.root.joinpath(*name.split(".")).is_dir()

    def _modules(self, package: str) -> Iterator[tuple[Path, str]]:
        for file in self.root.joinpath(*package.split(".")).glob("*.py"):
            yield file, package if file.name == "__init__.py" else f"{package}.{file.stem}"


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


def _string(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _parents(module: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`: importing the last executes them all."""
    parts = module.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _body(tree: ast.Module, functions: tuple[str, ...]) -> list[ast.stmt]:
    """All of a module, or its top level with only the named functions and those that they refer to."""
    if not functions:
        return tree.body
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    wanted, queue = set(), list(functions)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name) and node.id in defined]
    return [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name in wanted]


def _executed(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node below `body` but those that only a type checker sees."""
    for statement in body:
        queue: list[ast.AST] = [statement]
        while queue:
            node = queue.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                queue += node.orelse
                continue
            yield node
            queue += ast.iter_child_nodes(node)


def _loads_plugins(node: ast.AST) -> bool:
    """Whether `node` is a call of `plugins.load`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "plugins.load"
