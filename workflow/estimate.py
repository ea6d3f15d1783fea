"""Encode what a study needs, and say what the rest of it would take on this machine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from stages.runtime import run_and_leave
from stages.study import load
from workflow.layout import Layout


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m workflow.estimate", description=__doc__)
    parser.add_argument("study", nargs="?", default="params.yaml", help="study file (default: %(default)s)")
    args = parser.parse_args()
    load(args.study)
    layout = Layout.read(args.study)
    inputs = {
        "base": layout.model("base"), "reward": layout.model(layout.reward),
        "tensors": layout.out("encodings/encodings.safetensors"), "index": layout.out("encodings/index.parquet"),
    }  # fmt: skip
    chosen = [] if args.study == "params.yaml" else ["--config", f"study={args.study}"]
    searched = [record for target in ("base", "tuned") for record in layout.searched(target)]
    _run("snakemake", *{*inputs.values(), *searched}, "--cores", "all", "--quiet", "rules", *chosen)
    options = [part for name, path in inputs.items() for part in (f"--{name}", path)]
    folders = ("--predictors", layout.out("encodings"), "--models", layout.out("models"))
    _run("stages.estimate", "--params", args.study, *options, *folders)


def _run(module: str, *arguments: str) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", "1")  # a job of the workflow gets one core, unless a cluster says more
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", threads)}
    done = subprocess.run([sys.executable, "-m", module, *arguments], env=environment)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    run_and_leave(main)
