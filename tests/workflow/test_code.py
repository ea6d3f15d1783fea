"""Which code a job is made with: what it imports, and of the plug-ins those that its settings name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

from stages import code, imports
from workflow.plan import Plan

FILES = {
    "a/__init__.py": "",
    "a/__main__.py": "from typing import TYPE_CHECKING\nfrom stages import plugins\nfrom . import near\n"
    "if TYPE_CHECKING:\n    from stages import types\n"
    "def used():\n    import stages.late\ndef main():\n    used()\n    plugins.load('stages.kinds', 'x')\n"
    "def unused():\n    import stages.never\n",
    "a/near.py": "import stages.lineage.core\n",
    "kinds/__init__.py": "",
    "kinds/one.py": "from stages.deep import thing\nfrom .two import other\n",
    "kinds/two.py": "other = 2\n",
    "kinds/three.py": "import stages.never\n",
    "b/__main__.py": "KINDS = 'stages.kinds'\n",
    "lineage/core.py": "import stages.never\n",
    "__init__.py": "", "plugins.py": "x = 1", "types.py": "", "late.py": "x = 1", "never.py": "x = 1",
    "deep.py": "thing = 1\n",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of these files."""
    for name, text in FILES.items():
        (tmp_path / "stages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stages" / name).write_text(text)
    return tmp_path


def names(root: Path, entry: str, *texts: str, functions: tuple[str, ...] = ()) -> set[str]:
    """Files below `stages` that a job executes."""
    code._sources.cache_clear()
    found = code.closure(entry, functions, frozenset(texts), root)
    return {file.relative_to(root / "stages").as_posix() for file in found}


def test_what_runs_and_nothing_else(root: Path) -> None:
    """Imports in functions count; those for type checkers, in unused functions and in lineage do not."""
    expected = {"a/__main__.py", "a/near.py", "plugins.py", "late.py"}
    assert names(root, "stages.a.__main__", functions=("main",)) == expected


def test_plug_ins_that_are_named_and_what_they_import(root: Path) -> None:
    before = names(root, "stages.a.__main__", functions=("main",))
    named = names(root, "stages.a.__main__", "one", "someone", "../one", functions=("main",))
    assert named - before == {"kinds/one.py", "kinds/two.py", "deep.py"}


def test_a_package_counts_only_where_plug_ins_are_loaded(root: Path) -> None:
    assert names(root, "stages.b.__main__", "one") == {"b/__main__.py"}


def test_plug_ins_that_are_always_loaded(root: Path) -> None:
    """Those of a constant `ALWAYS`, and all of a package that a module asks for as a whole."""
    loads = "from stages import plugins\nplugins.load('stages.kinds', x)\n"
    (root / "stages/b/__main__.py").write_text(f"{loads}ALWAYS = ('one', 'unknown')\n")
    assert names(root, "stages.b.__main__") == {
        "b/__main__.py",
        "plugins.py",
        "kinds/one.py",
        "kinds/two.py",
        "deep.py",
    }
    (root / "stages/b/__main__.py").write_text(f"{loads}plugins.every('stages.kinds')\n")
    assert {"kinds/one.py", "kinds/two.py", "kinds/three.py"} <= names(root, "stages.b.__main__")


def test_what_the_report_and_measuring_always_execute() -> None:
    plan = Plan.read(ROOT / "studies/smoke.yaml")
    code_of = {stage.name: plan.stamps(stage, name)["code"] for _, stage, name in plan.jobs()}
    figures = {f"stages/report/figures/{name}.py" for name in ("frontier", "strategies", "training", "queries", "grid")}
    metrics = {f"stages/measure/metrics/{name}.py" for name in ("caption", "diversity", "rewards", "fid")}
    methods = {f"stages/finetune/methods/{name}.py" for name in ("refl", "imagerefl")}
    assert figures | metrics | methods <= code_of["report"].keys()
    assert metrics <= code_of["measure"].keys()
    assert not figures & code_of["measure"].keys()
    assert "stages/finetune/methods/ddpo.py" not in code_of["report"]


def test_digests_change_with_the_files(root: Path) -> None:
    def digests() -> dict[str, str]:
        for known in (code._digests, code._possible, code._sources):
            known.cache_clear()
        return dict(code.digests("stages.a.__main__", ("main",), frozenset(["two"]), root))

    before = digests()
    (root / "stages/kinds/four.py").write_text("")
    (root / "stages/kinds/one.py").write_text("edited = 1")
    assert digests() == before
    (root / "stages/kinds/two.py").write_text("other = 33")
    assert {name for name, digest in digests().items() if digest != before[name]} == {"stages/kinds/two.py"}


def test_texts_of_settings() -> None:
    settings = {"a": {"kind": "refl", "of": ["x", ("y", 1, None)]}, "b": 2.5}
    assert code.texts_of(settings) == {"a", "kind", "refl", "of", "x", "y", "b"}


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The plan of the small study."""
    return Plan.read(ROOT / "studies/shapes.yaml")


def test_a_job_names_its_own_plug_ins(plan: Plan) -> None:
    """Of methods the run's own, of rewards those that it asks, of strategies and metrics those of the study."""
    jobs = {job: set(plan.stamps(stage, name)["code"]) for job, stage, name in plan.jobs()}

    def of(job: str, package: str) -> set[str]:
        return {Path(file).stem for file in jobs[job] if str(Path(file).parent) == f"stages/{package}"} - {"__init__"}

    assert of("finetune@refl-s0", "finetune/methods") == {"refl"}
    assert "draft_lv" in of("finetune@draftlv-s0", "finetune/methods")
    assert "refl" not in of("finetune@draftlv-s0", "finetune/methods")
    assert {"open_clip", "base"} <= of("score@proxy", "rewards")
    assert "shapes_oracle" not in of("score@proxy", "rewards")
    assert "shapes_oracle" in of("score@oracle", "rewards")
    assert "open_clip" not in of("score@oracle", "rewards")
    assert {"combined", "aig", "rlg", "tuned"} <= of("sample@refl-s0", "sample/strategies")
    assert "fusion" not in of("sample@refl-s0", "sample/strategies")
    assert {"fid", "kid", "vendi"} <= of("measure@refl-s0", "measure/metrics")
    assert not any(file.startswith("stages/lineage") for files in jobs.values() for file in files)
    assert not any(file.startswith("stages/curate") for file in jobs["finetune@refl-s0"])


@pytest.mark.parametrize(
    ("file", "executed"),
    [
        ("stages/finetune/methods/foo.py", set[str]()),
        ("stages/sample/strategies/foo.py", set()),
        ("stages/rewards/foo.py", set()),
        ("stages/measure/metrics/foo.py", set()),
        ("stages/finetune/methods/ddpo.py", set()),
        ("stages/sample/strategies/fusion.py", set()),
        ("stages/rewards/jpeg.py", set()),
        ("stages/measure/metrics/coverage.py", set()),
        ("stages/report/figures/grid.py", {"report"}),
        ("stages/finetune/methods/imagerefl.py", {"finetune@imagerefl-s0", "finetune@imagerefl-s1", "report"}),
        ("stages/measure/metrics/kid.py", {"measure_reference", "report", "measure"}),
    ],
)
def test_jobs_that_execute_a_plug_in(plan: Plan, file: str, executed: set[str]) -> None:
    """A new file concerns none, an edited one those that name it."""
    found = {job for job, stage, name in plan.jobs() if file in plan.stamps(stage, name)["code"]}
    assert {job.split("@")[0] if job.startswith("measure@") else job for job in found} == executed


LOADED = """
import atexit, os, sys
def note():
    root = os.getcwd() + os.sep
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("stages")]
    files = {getattr(module, "__file__", None) for module in ours}
    with open("loaded.txt", "a") as log:
        main = sys.modules["__main__"].__file__
        print(main.removeprefix(root), " ".join(sys.argv[1:]), *sorted(f for f in files if f), sep="\\t", file=log)
atexit.register(note)
"""
"""In `sitecustomize`: at its end, every process writes down the modules of the project that it has loaded."""


@pytest.mark.slow
def test_what_jobs_load_is_what_their_stamps_name(tmp_path: Path) -> None:
    """The smoke study, run: no job loads a module of the project that its stamp does not name."""
    from benchmarks.study import copy_files

    copy_files(ROOT, tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(LOADED)
    environment = code_environment(tmp_path)
    program = [str(Path(sys.executable).parent / "snakemake"), "--cores", "all", "--config", "study=studies/smoke.yaml"]
    done = subprocess.run(program, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    smoke = Plan.read(tmp_path / "studies/smoke.yaml")
    by_entry: dict[tuple[str, str], set[str]] = {}
    for _, stage, name in smoke.jobs():
        key = (stage.program, name)
        by_entry[key] = set(smoke.stamps(stage, name)["code"])
    missing = {}
    for line in (tmp_path / "loaded.txt").read_text().splitlines():
        main, words, *files = line.split("\t")
        found = entry_of(main, words.split(), by_entry)
        if found is not None:
            loaded = {Path(file).relative_to(tmp_path).as_posix() for file in files if file.startswith(str(tmp_path))}
            loaded = {
                file for file in loaded if not file.startswith("stages/lineage/") and (tmp_path / file).stat().st_size
            }
            if beyond := loaded - by_entry[found]:
                missing[found] = sorted(beyond)
    assert not missing


def code_environment(root: Path) -> dict[str, str]:
    """Where Python finds `sitecustomize`, and no MLflow."""
    import os

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return dict(os.environ, PATH=path, PYTHONPATH=f"{root}/site", LINEAGE="off", OMP_NUM_THREADS="1")


def entry_of(main: str, words: list[str], known: dict[tuple[str, str], set[str]]) -> tuple[str, str] | None:
    """Program and entry of the job whose process this was; None for another process."""
    parts = Path(main).parts
    if parts[:1] != ("stages",) or parts[-1] != "__main__.py":
        return None
    for flag in ("--run", "--name", "--reward"):
        name = words[words.index(flag) + 1] if flag in words else ""
        for program in (parts[1], f"{parts[1]} {words[0]}" if words else ""):
            if (program, name) in known:
                return program, name
    return (parts[1], "") if (parts[1], "") in known else None


def fresh(root: Path) -> set[str]:
    """What a new process finds."""
    code._sources.cache_clear()
    code._digests.cache_clear()
    imports._contents.cache_clear()
    imports._tree.cache_clear()
    return set(code.digests("stages.a.__main__", ("main",), frozenset(["one"]), root))


def test_what_was_read_is_remembered_until_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = ast.parse
    monkeypatch.setattr(imports.ast, "parse", lambda text, filename: read.append(Path(filename).name) or plain(text))
    before = fresh(root)
    assert len(read) > len(before) / 2
    read.clear()
    assert fresh(root) == before
    assert read == ["__main__.py"]  # of which functions are named
    read.clear()
    (root / "stages/kinds/two.py").write_text("import stages.never\nother = 2\n")
    assert fresh(root) - before == {"stages/never.py"}
    assert sorted(read) == ["__main__.py", "never.py", "two.py"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 0, "files": {"stages/code.py": 3}}'])
def test_a_memory_that_cannot_be_read_is_none(root: Path, text: str) -> None:
    before = fresh(root)
    (root / imports.MEMORY).write_text(text)
    assert fresh(root) == before


def test_a_place_that_cannot_be_written_is_no_fault(root: Path) -> None:
    (root / ".cache").write_text("a file")
    assert "stages/a/__main__.py" in fresh(root)
