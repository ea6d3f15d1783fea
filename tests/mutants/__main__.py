"""Put one small fault after another into a copy of the code and see whether the tests notice: `make mutants`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from stages.runtime import progress, whole_file
from tests.mutants.worker import noticed

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.toml")
T = TypeVar("T")
COPIED = (
    "stages", "tests", "workflow", "docs", "studies", "shipped", "data", "votes", "benchmarks", "profiles", "slurm",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file`, the text `old`, which stands there once, becomes `new`; `tests` (files, or single tests as
    `file::test`) are to notice.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """Where it is, and what stands there."""
        return f"{self.file}: {self.new.strip().splitlines()[0] if self.new.strip() else f'without {self.old.strip()}'}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others."""
        return self.file, self.old, self.new

    def text(self, root: Path) -> str:
        """The file with the fault; raises ValueError naming the entry where `old` does not stand there once."""
        content = (root / self.file).read_text(encoding="utf-8")
        if content.count(self.old) != 1:
            raise ValueError(f"{LIST.name}: {self.file}: {self.old!r} stands there {content.count(self.old)} times")
        return content.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """All entries of the list."""
    rows = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(row["file"], row["old"], row["new"], tuple(row["tests"])) for row in rows]


def failing(chosen: Sequence[Mutant], copies: Sequence[Path]) -> list[str]:
    """The files whose tests fail without any fault: with them every fault would count as noticed."""
    files: dict[str, dict[str, None]] = {}
    for test in (test for mutant in chosen for test in mutant.tests):
        files.setdefault(test.partition("::")[0], {})[test] = None
    tried = _each(list(files), copies, lambda file, root: noticed(root, files[file]))
    return sorted(file for file, bad in progress(tried, len(files), "test files without a fault") if bad)


def run(chosen: Sequence[Mutant], copies: Sequence[Path]) -> Iterator[tuple[Mutant, bool]]:
    """Every fault alone in one of the copies, and whether it was noticed, as they are found."""
    return _each(chosen, copies, _tried)


def _tried(mutant: Mutant, root: Path) -> bool:
    path = root / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.text(root), encoding="utf-8")
    try:
        return noticed(root, mutant.tests)
    finally:
        path.write_text(before, encoding="utf-8")


def _each(items: Sequence[T], copies: Sequence[Path], work: Callable[[T, Path], bool]) -> Iterator[tuple[T, bool]]:
    """The work on every item in a copy that nothing else works in, in the order in which it ends."""
    free: SimpleQueue[Path] = SimpleQueue()
    for root in copies:
        free.put(root)

    def one(item: T) -> tuple[T, bool]:
        root = free.get()
        try:
            return item, work(item, root)
        finally:
            free.put(root)

    with ThreadPoolExecutor(len(copies)) as pool:
        yield from (done.result() for done in as_completed([pool.submit(one, item) for item in items]))


@contextmanager
def copies_of(source: Path, count: int) -> Iterator[list[Path]]:
    """Copies of the tree, for one fault at a time each."""
    with tempfile.TemporaryDirectory() as folder:
        first, *others = made = [Path(folder) / str(number) for number in range(count)]
        for name in COPIED:
            shutil.copytree(source / name, first / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in source.iterdir():
            if path.is_file():
                shutil.copy(path, first / path.name)
        for root in others:
            shutil.copytree(first, root)
        yield made


def known(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What earlier runs found, by fault."""
    rows = json.loads(path.read_text(encoding="utf-8"))["faults"] if path.is_file() else []
    return {(row["file"], row["old"], row["new"]): row for row in rows}


def write(path: Path, every: Sequence[Mutant], found: Mapping[tuple[str, str, str], dict[str, Any]]) -> None:
    """The results of the faults that stand in the list, in its order, and how many that are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"listed": len(every), "faults": [found[one.key] for one in every if one.key in found]}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose file holds this text; results of others are kept")
    parser.add_argument("--resume", action="store_true", help="only faults that no earlier run has a result of")
    parser.add_argument("--survivors", action="store_true", help="only faults that were not noticed the last time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults at a time (default: the cores)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutants.json")
    parser.add_argument("--check", action="store_true", help="only see that every entry of the list stands in the code")
    args = parser.parse_args()
    every, found = mutants(), known(args.out)
    chosen = [mutant for mutant in every if args.only in mutant.file]
    if args.resume:
        chosen = [mutant for mutant in chosen if mutant.key not in found]
    if args.survivors:
        chosen = [mutant for mutant in chosen if not found.get(mutant.key, {"noticed": True})["noticed"]]
    for mutant in chosen:
        mutant.text(ROOT)
    if args.check:
        print(f"{len(chosen)} entries stand in the code")
        return
    if not (args.only or args.resume or args.survivors):
        found = {}
    with copies_of(ROOT, max(1, min(args.jobs, len(chosen)))) as copies:
        if bad := failing(chosen, copies):
            raise SystemExit(f"tests fail without any fault: {' '.join(bad)}")
        for mutant, seen in progress(run(chosen, copies), len(chosen), "faults"):
            print(f"{'noticed ' if seen else 'SURVIVED'} {mutant.name}", flush=True)
            found[mutant.key] = {"file": mutant.file, "old": mutant.old, "new": mutant.new, "noticed": seen}
            write(args.out, every, found)
    rows = [found[one.key] for one in every if one.key in found]
    killed = sum(bool(row["noticed"]) for row in rows)
    print(f"{killed} of {len(rows)} faults noticed, {killed / max(1, len(rows)):.0%}; {len(every)} are listed")


if __name__ == "__main__":
    main()
