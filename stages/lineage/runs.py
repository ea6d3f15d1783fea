"""The runs of a study in MLflow: one parent, one child per job, found again by a key instead of made twice."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from stages.lineage.record import FINISHED, Record, title
from stages.lineage.store import Connection, user

if TYPE_CHECKING:
    from mlflow.entities import Run

KEY, EXECUTION, DIGEST = "lineage_key", "lineage_execution", "lineage_digest"
PARENT = "mlflow.parentRunId"
STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


def key(connection: Connection, study: str, stage: str, name: str) -> str:
    """What finds the run of a job again, in sixteen hexadecimal digits."""
    text = "\0".join((connection.store.workspace, study, stage, name))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def find(connection: Connection, job_key: str) -> Run | None:
    """The run with this key; of several the newest."""
    found = connection.client.search_runs([connection.experiment], f"tags.{KEY} = '{job_key}'", max_results=1)
    return found[0] if found else None


def open_run(connection: Connection, record: Record) -> Run:
    """The run that mirrors `record`.

    The run of an earlier execution is taken up again if that did not finish and made the same thing from the same
    inputs and code; otherwise it is deleted with its models (MLflow keeps both in its bin), and a new one
    takes its place.
    """
    client, job_key = connection.client, key(connection, record.study, record.stage, record.name)
    with connection.store.locked():
        parent = _parent(connection, record)
        found = find(connection, job_key)
        if found is not None:
            same = found.data.tags.get(EXECUTION) == record.execution
            unfinished = found.info.status != STATUS[FINISHED] and found.data.tags.get(DIGEST) == digest(record)
            if same or unfinished:
                client.update_run(found.info.run_id, status=STATUS[record.status])
                client.set_tag(found.info.run_id, EXECUTION, record.execution)
                return found
            remove(connection, found)
        tags = {**_tags(record), KEY: job_key, EXECUTION: record.execution, DIGEST: digest(record), PARENT: parent}
        return client.create_run(connection.experiment, int(record.started * 1000), tags, record.title)


def close_run(connection: Connection, record: Record, run: str) -> None:
    """Give the run its final status and end; the parent ends with its latest child, failed if any child is."""
    client, end = connection.client, int((record.started + record.seconds) * 1000)
    client.set_terminated(run, STATUS[record.status], end)
    with connection.store.locked():
        parent = _parent(connection, record)
        children = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'FAILED'"
        failed = client.search_runs([connection.experiment], children, max_results=1)
        client.set_terminated(parent, STATUS["failed" if failed else "finished"], end)


def evaluated_run(connection: Connection, study: str, name: str) -> Run:
    """The run that final measures of `name` belong to: its training, or the import of a checkpoint, else one made for
    them (`base`).
    """
    stage = "base" if name == "base" else "finetune"
    job_key = key(connection, study, stage, name)
    with connection.store.locked():
        found = find(connection, job_key) or find(connection, key(connection, study, "import_policy", name))
        if found is not None:
            return found
        parent = find(connection, key(connection, study, "study", ""))
        tags = {KEY: job_key, "study": study, "stage": stage, "method": name if stage == "base" else ""}
        if parent is not None:
            tags[PARENT] = parent.info.run_id
        label = name if stage == "base" else title(stage, name)
        made = connection.client.create_run(connection.experiment, int(time.time() * 1000), tags, label)
        connection.client.set_terminated(made.info.run_id, STATUS[FINISHED])
        return made


def remove(connection: Connection, run: Run) -> None:
    """Move a run and the models it made to MLflow's bin."""
    client = connection.client
    made = f"source_run_id = '{run.info.run_id}'"
    for model in client.search_logged_models([connection.experiment], filter_string=made):
        client.delete_logged_model(model.model_id)
    client.delete_run(run.info.run_id)


def digest(record: Record) -> str:
    """What a job was made from: study file, inputs and code, as one digest."""
    parts = [record.params.sha256, record.code.digest, *(f"{file.name}={file.sha256}" for file in record.inputs)]
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def source(record: Record) -> dict[str, str]:
    """MLflow's own tags for who ran what at which commit."""
    tags = {"mlflow.user": user(), "mlflow.source.name": f"stages.{record.stage}", "mlflow.source.type": "LOCAL"}
    return tags | ({"mlflow.source.git.commit": record.code.git} if record.code.git else {})


def _parent(connection: Connection, record: Record) -> str:
    """Id of the study's own run; to be called under the lock."""
    study_key = key(connection, record.study, "study", "")
    found = find(connection, study_key)
    if found is not None:
        return found.info.run_id
    tags = {KEY: study_key, "study": record.study, "stage": "study", "params": record.params.path, **source(record)}
    start = int(record.started * 1000)
    return connection.client.create_run(connection.experiment, start, tags, f"study {record.study}").info.run_id


def _tags(record: Record) -> dict[str, str]:
    tags = {
        "study": record.study,
        "stage": record.stage,
        "git_sha": record.code.git or "",
        "git_dirty": "yes" if record.code.dirty else "no",
        "code_sha256": record.code.digest,
        "params": record.params.path,
        "params_sha256": record.params.sha256 or "",
        "host": record.host,
        "python": record.versions["python"],
        "torch": record.versions.get("torch", ""),
        **source(record),
    }
    if record.method is not None:
        tags["method"] = str(record.method)
    if record.seed is not None:
        tags["seed"] = str(record.seed)
    return tags
