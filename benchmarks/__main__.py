"""Measure studies from nothing: seconds in all, of planning, of a second run, and seconds and memory of every job."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.study import StudyCost, measure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("studies", nargs="*", type=Path, default=[Path("studies/smoke.yaml"), Path("params.yaml")])
    parser.add_argument("--cores", default="all", help="passed on to Snakemake (default: all)")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file too")
    args = parser.parse_args()
    costs = []
    for study in args.studies:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            try:
                costs.append(measure(study, Path.cwd(), Path(folder), args.cores))
            except subprocess.CalledProcessError as error:
                print(f"error: {study}: {' '.join(map(str, error.cmd))}: exit code {error.returncode}", file=sys.stderr)
                print((Path(folder) / "bench.log").read_text()[-3000:], file=sys.stderr)
                raise SystemExit(1) from None
        show(costs[-1])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(machine() | {"studies": [cost.as_dict() for cost in costs]}, indent=1) + "\n")


def show(cost: StudyCost) -> None:
    """Print one study's costs, the dearest jobs first."""
    print(f"\n{cost.study}: {cost.seconds:.0f} s from nothing, {cost.planning_seconds:.1f} s to plan, ", end="")
    print(f"{cost.repeat_seconds:.1f} s with nothing to do, {cost.memory_mb:.0f} MB in the largest job")
    for job in sorted(cost.jobs, key=lambda job: -job.seconds):
        print(f"  {job.seconds:7.1f} s {job.memory_mb:7.0f} MB  {job.rule} {job.job if job.job != job.rule else ''}")


if __name__ == "__main__":
    main()
