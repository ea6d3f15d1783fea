"""How long a study takes from nothing, and what every job of it costs in seconds and memory."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class JobCost:
    """One job of a study: wall seconds and the largest resident memory in MB."""

    rule: str
    job: str
    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class StudyCost:
    """One run of a study: from nothing, planned again, and run again with nothing to do."""

    study: str
    seconds: float
    planning_seconds: float
    repeat_seconds: float
    jobs: list[JobCost]

    @property
    def memory_mb(self) -> float:
        """The largest memory of any job, in MB."""
        return max((job.memory_mb for job in self.jobs), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self) | {"memory_mb": self.memory_mb}


def measure(study: Path, root: Path, folder: Path, cores: str) -> StudyCost:
    """Run `study` of the checkout `root` in a copy of its files at `folder`; raises CalledProcessError on failure."""
    copy_files(root, folder)
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--config", f"study={study}"]
    seconds = _timed(command, folder)
    planning = _timed([*command, "-n", "--forceall"], folder)
    repeat = _timed(command, folder)
    name = yaml.safe_load((folder / study).read_text())["study"]["name"]
    return StudyCost(str(study), seconds, planning, repeat, job_costs(folder / "logs" / name))


def copy_files(root: Path, folder: Path) -> None:
    """The files that git knows, and those it would add, as they stand in the working tree; nothing that was built."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)


def job_costs(logs: Path) -> list[JobCost]:
    """What Snakemake wrote beside the logs: one table `<rule>/<job>.tsv` (or `<rule>.tsv`) per job."""
    costs = []
    for path in sorted(logs.rglob("*.tsv")):
        with path.open(newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        rule = path.parent.name if path.parent != logs else path.stem
        memory = 0.0 if row["max_rss"] in ("-", "NA", "") else float(row["max_rss"])
        costs.append(JobCost(rule, path.stem, float(row["s"]), memory))
    return costs


def _timed(command: list[str], folder: Path) -> float:
    """Seconds of a command in `folder`, with a tracking store of its own; its output goes to bench.log there."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    start = time.monotonic()
    with (folder / "bench.log").open("a") as log:
        subprocess.run(command, cwd=folder, check=True, env=environment, stdout=log, stderr=log)
    return time.monotonic() - start
