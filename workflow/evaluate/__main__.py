"""Evaluate checkpoints that were trained elsewhere by a protocol: sample, measure and report on them beside the base.

Writes a study file and runs it by Snakemake, so an interrupted evaluation goes on where it was, and a second one with
other checkpoints of the same base and protocol samples only what is new.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from stages.errors import InputError
from stages.params import read_study
from stages.places import missing, real
from stages.runtime import run_and_leave, whole_file
from stages.study import Study
from stages.study import load as check
from workflow.evaluate import protocol
from workflow.evaluate.failures import said
from workflow.evaluate.study import require_prompts, study
from workflow.layout import Layout

HEAD = "# Written by `imagerefl evaluate`: {said}.\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="imagerefl evaluate", description=__doc__, formatter_class=_Plain)
    parser.add_argument("--base", type=Path, required=True, help="diffusers folder of the base")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, action="append", help="LoRA, diffusers folder or single file; repeat"
    )
    parser.add_argument("--protocol", default="shapes", help=f"{', '.join(protocol.names())}, or a file of your own")
    parser.add_argument("--prompts", type=Path, help="the protocol's prompts, where it ships none")
    parser.add_argument("--images", type=Path, help="the real images that a protocol compares with, where it does")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the protocol; repeat")
    parser.add_argument("--cores", default="all", help="jobs at a time (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="write the study file, and say what would run")
    args = parser.parse_args()
    if fault := missing(str(args.base), "folder"):
        raise InputError(f"--base {args.base}: {fault}")
    chosen = protocol.load(args.protocol, args.set)
    content = study(chosen, args.base, args.checkpoint, args.prompts, args.images)
    file = Path("out") / content["study"]["name"] / "study.yaml"
    _require_same_base(file, args.base)
    text = HEAD.format(said=chosen.said) + yaml.safe_dump(content, sort_keys=False, width=118)
    _write(file, text, lambda made: require_prompts(chosen, made, args.prompts))
    print(f"{chosen.said}\nstudy: {file}", flush=True)
    _run(file, args.cores, args.dry_run)
    if not args.dry_run:
        print(f"report: {Layout.read(file).out('report/index.html')}")


def _write(file: Path, text: str, accept: Callable[[Study], None]) -> None:
    """Write and check the study; where it is refused, what stood there before stands there again."""
    before = file.read_text(encoding="utf-8") if file.is_file() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    _put(file, text)
    try:
        accept(check(file))
    except InputError:
        if before is not None:
            _put(file, before)
        else:
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()
        raise


def _put(file: Path, text: str) -> None:
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


def _require_same_base(file: Path, base: Path) -> None:
    """Raise InputError where results of another base of the same name would be overwritten."""
    if not file.is_file():
        return
    try:
        found = read_study(file)["prepare"]["import"]["base"]["folder"]
    except (KeyError, TypeError):
        raise InputError(
            f"{file}: not written by `imagerefl evaluate`; move it away, and its results with it"
        ) from None
    if real(found) != real(base):
        raise InputError(f"--base {base}: {file.parent} has the evaluation of {found}; rename one of the two folders")


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


def _run(file: Path, cores: str, dry_run: bool) -> None:
    """Snakemake on the study; its own lines say how far it is. Ends with its exit code where that is not 0, and before
    with what the jobs that failed have said.
    """
    words = ["--cores", cores, "--config", f"study={file}", "--quiet", "rules", *(["--dry-run"] if dry_run else [])]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    began = time.time()
    done = subprocess.run([sys.executable, "-m", "snakemake", *words], env=environment)
    if done.returncode:
        for line in said(Path(Layout.read(file).logs("")), began):
            print(line, file=sys.stderr)
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    run_and_leave(main)
