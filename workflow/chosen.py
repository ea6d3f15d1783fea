"""Files that a job reads because the study chooses them: a reward that a sampling strategy asks, say.

DVC has one template for all runs, which cannot name them. A stage of its own writes, per such job, which they are and
their digests; the job depends on that. Snakemake names the files themselves.

    python -m workflow.chosen params.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from stages.errors import InputError
from stages.runtime import run_and_leave, sha256
from workflow.files import Files
from workflow.plan import Plan, text
from workflow.stage import Chosen, Stage


def place(study: str, job: str) -> Path:
    """The file about a job."""
    return Path(f"out/{study}/chosen/{job}.json")


def takes(stage: Stage) -> bool:
    """Whether jobs of a stage read what the study chooses."""
    return any(isinstance(read, Chosen) for read in stage.reads.values())


def contents(plan: Plan) -> Iterator[tuple[str, str]]:
    """Every job that reads such files, with what the file about it says; without jobs whose files are not there."""
    files = Files(plan.layout)
    for job, stage, name in plan.jobs():
        chosen = files.chosen(stage, name) if takes(stage) else []
        if takes(stage) and all(Path(file).is_file() for file in chosen):
            yield job, text({file: sha256(file) for file in chosen})


def write(plan: Plan) -> None:
    """Write the files about all jobs whose files are there."""
    for job, content in contents(plan):
        path = place(plan.layout.name, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def main() -> None:
    """Command line: what DVC runs before it samples."""
    parser = argparse.ArgumentParser(prog="python -m workflow.chosen", description=__doc__)
    parser.add_argument("study", nargs="?", default="params.yaml", help="study file (default: %(default)s)")
    plan = Plan.read(parser.parse_args().study)
    files = Files(plan.layout)
    for _, stage, name in plan.jobs():
        for file in files.chosen(stage, name):
            if not Path(file).is_file():
                raise InputError(f"{file}: no such file; {stage.name} of {name or 'the base'} reads it")
    write(plan)


if __name__ == "__main__":
    run_and_leave(main)
