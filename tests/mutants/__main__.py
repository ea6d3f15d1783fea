"""Put one small fault after another into a copy of the code and see whether the tests notice: `make mutants`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.toml")
PATIENCE = 1800.0
"""Seconds after which tests that still run count as having noticed: a fault may make a loop endless."""


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file`, the text `old`, which stands there once, becomes `new`; `tests` are to notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """Where it is, and what stands there."""
        return f"{self.file}: {self.new.strip().splitlines()[0] if self.new.strip() else f'without {self.old.strip()}'}"

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


def noticed(root: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests fail in the copy at `root`; raises RuntimeError where they could not be run at all."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(tests)}: pytest ended with {done.returncode}: {done.stdout[-500:]}")
    return done.returncode == 1


def run(chosen: list[Mutant], root: Path) -> Iterator[tuple[Mutant, bool]]:
    """Every fault alone in the copy at `root`, and whether it was noticed; tests of one file run until one fails."""
    for mutant in chosen:
        path = root / mutant.file
        before = path.read_text(encoding="utf-8")
        path.write_text(mutant.text(root), encoding="utf-8")
        try:
            yield mutant, noticed(root, mutant.tests)
        finally:
            path.write_text(before, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose file holds this text")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutants.json")
    parser.add_argument("--check", action="store_true", help="only see that every entry of the list stands in the code")
    args = parser.parse_args()
    chosen = [mutant for mutant in mutants() if args.only in mutant.file]
    for mutant in chosen:
        mutant.text(ROOT)
    if args.check:
        print(f"{len(chosen)} entries stand in the code")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "copy"
        kept = ("stages", "tests", "workflow", "docs", "studies", "shipped", "data", "benchmarks", "profiles", "slurm")
        for name in kept:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, root / path.name)
        every = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        if noticed(root, every):  # else every fault would count as noticed
            raise SystemExit(f"the tests fail without any fault: {' '.join(every)}")
        found: list[dict[str, Any]] = []
        for mutant, seen in run(chosen, root):
            print(f"{'killed  ' if seen else 'SURVIVED'} {mutant.name}", flush=True)
            found.append(asdict(mutant) | {"killed": seen})
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    killed = sum(bool(row["killed"]) for row in found)
    print(f"{killed} of {len(found)} faults noticed, {killed / len(found):.0%}")


if __name__ == "__main__":
    main()
