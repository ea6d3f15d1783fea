"""No module imports another that imports it, at the top or within a function; imports for the type checker are free."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def executed(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below a node but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from executed(ast.Module([other], []))
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from executed(child)


def graph(root: Path, *packages: str) -> dict[str, set[str]]:
    """The modules that each module below `root` imports; a package stands for its `__init__`."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in packages
        for path in (root / package).rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        imported: set[str] = set()
        for node in executed(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            else:
                assert node.level == 0, f"{path}: a relative import"
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= (names & files.keys()) or {str(node.module)}
        found[name] = (imported & files.keys()) - {name}
    return found


def circle(modules: dict[str, set[str]]) -> list[str]:
    """A circle of imports, if there is one."""
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_one_that_imports_it() -> None:
    modules = graph(ROOT, "stages", "workflow", "benchmarks")
    assert len(modules) > 300 and "stages.runtime" in modules["stages.finetune.run"] | modules["stages.sample.run"]
    assert circle(modules) == []


def test_a_circle_within_functions_is_seen(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name, text in {
        "__init__": "",
        "a": "def f():\n    from p import b\n",
        "b": "from p.c import x\n",
        "c": "import p.a\n",
        "d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.e import y\n",
        "e": "from p import d\n",
    }.items():
        (tmp_path / "p" / f"{name}.py").write_text(textwrap.dedent(text))
    modules = graph(tmp_path, "p")
    assert set(circle(modules)) == {"p.a", "p.b", "p.c"}
    assert circle(modules | {"p.c": set()}) == []
