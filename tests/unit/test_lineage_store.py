"""What the jobs of a study change together in the tracking store."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from stages.lineage import views
from stages.lineage.store import Connection, Store

mlflow = pytest.importorskip("mlflow")
if TYPE_CHECKING:
    from mlflow import MlflowClient

JOBS = 4


def connection(folder: Path, client: object = None, experiment: str = "0") -> Connection:
    store = Store(f"sqlite:///{folder}/mlflow.db", folder / "mlflow.db.lock", "")
    return Connection(cast("MlflowClient", client), store, experiment)


def test_one_job_at_a_time_changes_what_is_shared(tmp_path: Path) -> None:
    inside, most = 0, 0

    def change() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1

    with ThreadPoolExecutor(JOBS) as jobs:  # each opens the lock's file anew, as processes do
        for done in [jobs.submit(connection(tmp_path).alone, change) for _ in range(JOBS)]:
            done.result()
    assert most == 1


@pytest.mark.parametrize(("failures", "passes"), [(0, True), (1, True), (2, False)])
def test_a_job_elsewhere_that_was_faster_costs_one_more_try(tmp_path: Path, failures: int, passes: bool) -> None:
    tries = 0

    def change() -> int:
        nonlocal tries
        tries += 1
        if tries <= failures:
            raise mlflow.exceptions.MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed")
        return tries

    if passes:
        assert connection(tmp_path).alone(change) == failures + 1
    else:
        with pytest.raises(mlflow.exceptions.MlflowException, match="UNIQUE"):
            connection(tmp_path).alone(change)


def test_jobs_that_describe_one_new_experiment_at_once(tmp_path: Path) -> None:
    """Every job finds no description, and all but one would then fail to write theirs."""
    made = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = made.create_experiment("toy")
    start = threading.Barrier(JOBS)

    def describe() -> None:
        of_this_job = connection(tmp_path, mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), experiment)
        start.wait()
        of_this_job.alone(lambda: views.describe(of_this_job, "all the same"))

    with ThreadPoolExecutor(JOBS) as jobs:
        for done in [jobs.submit(describe) for _ in range(JOBS)]:
            done.result()
    tags = made.get_experiment(experiment).tags
    assert tags[views.NOTE].startswith("all the same") and views.TAG + views.JOBS in tags
