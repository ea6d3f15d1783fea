"""Who made what from what: one record per job, a local JSON file and, when a store can be reached, an MLflow run.

    with lineage.job(params=args.params, stage="finetune", name="refl-s0", inputs=[...], outputs=[...]) as job:
        job.parameters({"lr": 5e-5})
        job.metric("reward", 0.61, step=20)

The JSON file is the record; MLflow mirrors it. A store that is down, missing or broken costs one line on stderr.
"""

from __future__ import annotations

from stages.lineage.job import Job, evaluation, job
from stages.lineage.record import Record, read_records

__all__ = ["Job", "Record", "evaluation", "job", "read_records"]
