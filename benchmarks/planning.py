"""What planning a large study costs: dry runs of either runner on generated studies, and their growth with the jobs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cost import Used, power, run
from benchmarks.machine import machine
from benchmarks.study import copy_files
from stages.runtime import whole_file

SIZES = (100, 1000, 10_000)
PER_RUN = 3
"""Jobs of a run: finetune, sample, measure."""
OUT = Path("benchmarks/results/planning.json")
STUDY = Path("studies/generated.yaml")
BEFORE = Path("studies/smoke.yaml")
COMMANDS = {
    "snakemake": ["-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "all", "--config", f"study={STUDY}"],
    "dvc": ["-m", "dvc", "status"],
}


@dataclass(frozen=True)
class Plan(Used):
    """What one dry run used."""

    runner: str
    jobs: int


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--jobs", nargs="+", type=int, default=list(SIZES), help="sizes (default: %(default)s)")
    parser.add_argument("--runner", nargs="+", choices=COMMANDS, default=["snakemake"])
    parser.add_argument("--limit", type=int, default=1800, help="seconds after which a dry run is given up")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the numbers, as JSON (default: {OUT})")
    args = parser.parse_args()
    plans = kept(args.out)
    with tempfile.TemporaryDirectory(prefix="planning-") as name:
        folder = Path(name)
        copy_files(Path.cwd(), folder)
        subprocess.run(["git", "init", "--quiet", folder], check=True)  # DVC works in repositories only
        for runner in args.runner:
            for jobs in sorted(args.jobs):
                generate(folder, jobs, runner)
                plan = plans[runner, jobs] = measure(runner, jobs, folder, args.limit)
                print(f"{runner}, {jobs:,} jobs: {plan.seconds:.1f} s ({plan.cpu_seconds:.1f} s of CPU), "
                      f"{plan.memory_mb:.0f} MB", flush=True)  # fmt: skip
                write(args.out, list(plans.values()))


def kept(path: Path) -> dict[tuple[str, int], Plan]:
    """The dry runs at `path`, by runner and jobs, in this order; what is not measured again stays there."""
    found = [Plan(**plan) for plan in json.loads(path.read_text())["plans"]] if path.exists() else []
    return {(plan.runner, plan.jobs): plan for plan in found}


def write(path: Path, plans: Sequence[Plan]) -> None:
    """The dry runs so far, with what they depend on."""
    runners = list(dict.fromkeys(plan.runner for plan in plans))
    plans = sorted(plans, key=lambda plan: (runners.index(plan.runner), plan.jobs))
    found = {runner: exponent([plan for plan in plans if plan.runner == runner]) for runner in runners}
    content = machine() | {"plans": [asdict(plan) for plan in plans], "exponents": found}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def generate(folder: Path, jobs: int, runner: str = "snakemake") -> None:
    """Write a study of about so many jobs, seeds of one method, beside the active one; for DVC, which runs the active
    one, in its place.
    """
    study: dict[str, Any] = yaml.safe_load((folder / BEFORE).read_text())
    method = next(iter(study["methods"]))
    study["study"] = study["study"] | {"name": "generated"}
    study["runs"] = {f"{method}-s{seed}": {"method": method, "seed": seed} for seed in range(max(jobs // PER_RUN, 1))}
    path = folder / (STUDY if runner == "snakemake" else "params.yaml")
    path.write_text(yaml.safe_dump(study, sort_keys=False))


def measure(runner: str, jobs: int, folder: Path, limit: int) -> Plan:
    """One dry run in `folder`; raises SystemExit with the last lines where it fails or takes longer than `limit`."""
    command = [sys.executable, *COMMANDS[runner]]
    used = run(command, folder / "planning.log", folder, cpu_limit=limit)
    return Plan(runner=runner, jobs=jobs, **asdict(used))


def exponent(plans: Sequence[Plan]) -> float | None:
    """The power of the number of jobs with which CPU seconds grow between the two largest sizes."""
    if len(plans) < 2:
        return None
    return power([plan.jobs for plan in plans[-2:]], [plan.cpu_seconds for plan in plans[-2:]])


if __name__ == "__main__":
    main()
