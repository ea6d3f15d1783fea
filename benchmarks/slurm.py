"""A study through a Slurm of one node, which is started for it, against the same study without: seconds and jobs.

What Slurm costs is the difference: two starts of Snakemake per job, and the wait for the next look at the queue.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import yaml

from benchmarks.machine import machine
from benchmarks.study import copy_files
from tests.workflow.local_slurm import LocalSlurm, missing

SITE = {
    "all": {"cpus_per_task": 1, "mem_mb": "1500 * attempt", "runtime": 60},
    "gpu": {"gpu_model": "toy"},
    "snakemake": {"status_seconds": 2},
}
"""Resources that fit on this machine."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/smoke.yaml"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/slurm.json"), help="the numbers, as JSON")
    args = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"error: not installed: {', '.join(lacking)}")
    result = machine() | {"study": str(args.study), "load_before": os.getloadavg()[0]} | compare(args.study)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def compare(study: Path) -> dict[str, object]:
    """Seconds of the study without Slurm and through it, and the job table of the latter."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    slurm = LocalSlurm(folder / "slurm", cpus=os.cpu_count() or 1)
    try:
        local = _run(study, folder / "local", os.environ, [])
        slurm.start()
        (folder / "site.yaml").write_text(yaml.safe_dump(SITE))
        environment = slurm.environment | {"IMAGEREFL_SITE": str(folder / "site.yaml")}
        through = _run(study, folder / "through", environment, ["--profile", "slurm"])
        version = slurm.call("sinfo", "--version").strip()
        jobs = [_row(job) for job in slurm.jobs()]
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return {"slurm": version, "local_seconds": local, "slurm_seconds": through, "jobs": jobs}


def _run(study: Path, folder: Path, environment: Mapping[str, str], flags: list[str]) -> float:
    copy_files(Path.cwd(), folder)
    own = {name: value for name, value in environment.items() if name not in ("MLFLOW_TRACKING_URI", "OMP_NUM_THREADS")}
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *flags, "--config", f"study={study}"]
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=own, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return round(time.monotonic() - began, 1)


def _row(job: Mapping[str, str]) -> dict[str, object]:
    """One line of the table, from what `scontrol show job` says."""
    submitted, started, ended = (datetime.fromisoformat(job[key]) for key in ("SubmitTime", "StartTime", "EndTime"))
    return {
        "job": re.sub("^rule_", "", job["Comment"]).replace("_wildcards_", "@"),
        "state": job["JobState"],
        "partition": job["Partition"],
        "gpu": job.get("TresPerJob", "").removeprefix("gres:gpu:"),
        "cpus": int(job["NumCPUs"]),
        "waited_seconds": (started - submitted).total_seconds(),
        "seconds": (ended - started).total_seconds(),
    }


def show(result: Mapping[str, object]) -> None:
    """Print the table."""
    print(f"{result['study']} on {platform.node()}, {result['slurm']}: {result['slurm_seconds']} s, "
          f"without Slurm {result['local_seconds']} s")  # fmt: skip
    for job in result["jobs"]:  # type: ignore[attr-defined]
        print(f"  {job['seconds']:6.0f} s  waited {job['waited_seconds']:4.0f} s  {job['partition']:<5}"
              f"{job['gpu'] or '-':<7}{job['state']:<11}{job['job']}")  # fmt: skip


if __name__ == "__main__":
    main()
