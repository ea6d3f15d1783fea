"""Bad input is not tried again: a job that exits with code 2 has its rule's retries taken back.

Snakemake tries every failed job again as often as `retries` says, whatever it died of. On a cluster that is right for
preemption, a time limit or a lost node, and wrong for a stage that refused its input: it would wait in the queue only
to say the same. The exit code does not reach Snakemake through Slurm, so the job leaves a file named after its Slurm
id, which is looked for when Snakemake reports the failure, before it decides about another try.
"""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(".snakemake/refused")
REFUSED = 2
"""Exit code of a stage that refuses its input (`stages.runtime.run_stage`)."""
PREFIX = (
    "set -euo pipefail; "
    f"trap 'if [ $? -eq {REFUSED} ]; then mkdir -p {FOLDER} && touch {FOLDER}/$SLURM_JOB_ID; fi' EXIT; "
)
"""What a job's shell begins with inside a Slurm job: Snakemake's usual strictness, and the file on exit code 2."""


class Refusals(logging.Handler):
    """A log handler that is told of failed jobs; `workflow` is Snakemake's."""

    def __init__(self, workflow: Any) -> None:
        super().__init__(logging.ERROR)
        self.workflow = workflow
        shutil.rmtree(FOLDER, ignore_errors=True)  # a cluster may count its jobs from 1 again

    def emit(self, record: logging.LogRecord) -> None:
        """Take back the retries of the failed job's rule when the job left its file."""
        about = getattr(record, "aux", None) or {}
        marker = FOLDER / str(about.get("external_jobid"))
        if not marker.exists():
            return
        marker.unlink(missing_ok=True)
        rule = self.workflow.get_rule(record.__dict__["rule_name"])
        if rule.restart_times:
            rule.restart_times = 0
            print(f"{rule.name}: bad input (exit code {REFUSED}), not tried again", file=sys.stderr)
