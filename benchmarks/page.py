"""Write docs/benchmarks.md from the results in benchmarks/results; every number of the page stands in one of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.sections.quality import mutants, tilt
from benchmarks.sections.scale import curation, planning, rows, slurm, studies
from benchmarks.sections.speed import paint, pairs, released, searches, steps, steps_before
from stages.runtime import whole_file

RESULTS, PAGE = Path("benchmarks/results"), Path("docs/benchmarks.md")

HEAD = """\
# Benchmarks

Written by `python -m benchmarks.page` from `benchmarks/results/*.json`; `make bench` measures everything anew, except
Slurm (`python -m benchmarks.slurm`), and writes both. `make bench QUICK=1` measures a little of everything into
`out/bench`, to see that it works, and leaves results and page as they are. Figures are those of the machine named in
each section.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of results (default: {RESULTS})")
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page (default: {PAGE})")
    args = parser.parse_args()
    with whole_file(args.out) as partial:
        partial.write_text(page(args.results))


def page(results: Path) -> str:
    """The page of all results that are there, in the order of `SECTIONS`; raises KeyError for a file of no section."""
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    if unknown := sorted(found.keys() - SECTIONS.keys()):
        raise KeyError(f"{results}: no section of the page for {unknown[0]}.json; known: {', '.join(SECTIONS)}")
    parts = ["\n".join(make(found[name])) for name, make in SECTIONS.items() if name in found]
    return "\n".join([HEAD, *parts])


SECTIONS: dict[str, Callable[[Any], Iterator[str]]] = {
    "steps": steps, "released": released, "steps_before": steps_before, "pairs": pairs, "studies": studies,
    "curation": curation, "rows": rows, "planning": planning, "slurm": slurm, "tilt": tilt, "searches": searches,
    "paint": paint, "mutants": mutants,
}  # fmt: skip
"""Results files by name, in the order of the page."""


if __name__ == "__main__":
    main()
