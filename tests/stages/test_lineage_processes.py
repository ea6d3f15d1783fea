"""Lineage of jobs in processes of their own: several at once, killed, with a server, without MLflow."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages.lineage.record import read_record
from tests.stages.recording import RECORDS, history, mirror, runs, write
from tests.stages.recording import empty_store as empty_store  # a fixture
from tests.stages.recording import store as store  # a fixture
from tests.stages.recording import workspace as workspace  # a fixture

mlflow = pytest.importorskip("mlflow")
if TYPE_CHECKING:
    from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]


def run_script(body: str, **environment: str) -> subprocess.Popen[str]:
    """A job in a process of its own, as a stage would be; MLflow is on unless the environment says otherwise."""
    head = "import sys, time\nfrom stages import lineage\nfrom stages.lineage import job as jobs\n"
    variables = {k: v for k, v in os.environ.items() if k != "LINEAGE"} | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(body)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_four_processes_at_once_on_a_fresh_store_lose_nothing() -> None:
    body = """
        with lineage.job("params.yaml", "finetune", "{name}", outputs=["out/toy/runs/{name}/w"]) as job:
            for step in range(300):
                job.metric("reward", step, step=step)
    """
    names = [f"refl-s{seed}" for seed in range(4)]
    processes = [run_script(body.format(name=name)) for name in names]
    for process in processes:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0 and errors == ""
    found = runs()
    assert set(found) == {"study toy", *(f"finetune {name}" for name in names)}
    for name in names:
        assert history(found[f"finetune {name}"], "reward") == [(step, float(step)) for step in range(300)]
        assert found[f"finetune {name}"].info.status == "FINISHED"


def test_unreachable_server_costs_one_line_and_the_record_stands(store: MlflowClient) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        process = run_script(
            """
            with lineage.job("params.yaml", "finetune", "refl-s0", outputs=["out/toy/runs/refl-s0/w"]) as job:
                job.metric("reward", 0.5, step=1)
                begin = time.monotonic()
            print(time.monotonic() - begin)
            """,
            MLFLOW_TRACKING_URI=f"http://127.0.0.1:{taken.getsockname()[1]}",
        )
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and float(out) < 10
    assert len(errors.splitlines()) == 1 and errors.startswith(
        "warning: lineage of finetune refl-s0: not all in MLflow"
    )
    record = read_record(RECORDS / "finetune-refl-s0.json")
    assert record.status == "finished" and record.metrics["reward"][0].value == 0.5
    mirror()  # later, when there is a store
    assert history(runs()["finetune refl-s0"], "reward") == [(1, 0.5)]


@pytest.mark.slow
def test_a_server_loses_nothing_of_four_jobs_at_once(workspace: Path, empty_store: Path) -> None:
    """Runs, every point, artifacts and final measures."""
    shutil.copy(empty_store, workspace / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        [sys.executable, *command, "--backend-store-uri", f"sqlite:///{workspace}/server.db"],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    body = """
        with lineage.job("params.yaml", "finetune", "{name}", outputs=["params.yaml"]) as job:
            for step in range(100):
                job.metric("reward", step, step=step)
            job.artifact("params.yaml")
            lineage.evaluation("params.yaml", "{name}", {{"tuned/proxy": 0.25}})
    """
    names = {f"refl-s{seed}" for seed in range(4)}
    try:
        assert wait_for(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close() is None)
        processes = [run_script(body.format(name=name), MLFLOW_TRACKING_URI=uri) for name in names]
        said = [process.communicate(timeout=180)[1] for process in processes]
        store = mlflow.MlflowClient(uri)
        experiment = store.get_experiment_by_name("toy")
        assert experiment is not None
        found = store.search_runs([experiment.experiment_id], "tags.stage = 'finetune'")
        artifacts = [[a.path for a in store.list_artifacts(run.info.run_id)] for run in found]
        points = [store.get_metric_history(run.info.run_id, "reward") for run in found]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert said == [""] * 4 and not Path("mlflow.db").exists()
    assert {run.info.run_name for run in found} == {f"finetune {name}" for name in names} and len(found) == 4
    assert [run.data.metrics["tuned/proxy"] for run in found] == [0.25] * 4
    assert artifacts == [["params.yaml"]] * 4
    assert [[(p.step, p.value) for p in each] for each in points] == [[(n, float(n)) for n in range(100)]] * 4


def test_job_runs_without_mlflow_installed(workspace: Path) -> None:
    write(workspace / "empty/mlflow.py", "raise ModuleNotFoundError('No module named mlflow')")
    body = """
        with lineage.job("params.yaml", "curate", outputs=["out/toy/data/x"]):
            pass
        assert "mlflow" not in sys.modules
    """
    process = run_script(body, PYTHONPATH=f"{workspace / 'empty'}{os.pathsep}{ROOT}")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and len(errors.splitlines()) == 1 and "No module named mlflow" in errors
    assert read_record(RECORDS / "curate.json").status == "finished"


def test_killed_job_is_seen_live_marked_killed_and_taken_up_again(store: MlflowClient) -> None:
    body = """
        jobs.INTERVAL = 0.2
        with lineage.job("params.yaml", "finetune", "refl-s0", outputs=["out/toy/runs/refl-s0/w"]) as job:
            for step in range({steps}):
                job.metric("reward", step, step=step)
                time.sleep({pause})
    """
    process = run_script(body.format(steps=10_000, pause=0.05))
    try:
        seen = wait_for(lambda: len(history(runs()["finetune refl-s0"], "reward")) > 5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert seen, "no metrics in the store while the job ran"
    assert wait_for(lambda: runs()["finetune refl-s0"].info.status == "KILLED")
    assert read_record(RECORDS / "finetune-refl-s0.json").status == "killed"
    killed = runs()["finetune refl-s0"]
    logged = len(history(killed, "reward"))

    process = run_script(body.format(steps=logged + 5, pause=0))
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0 and errors == ""
    run = runs()["finetune refl-s0"]
    assert run.info.run_id == killed.info.run_id and run.info.status == "FINISHED"
    assert history(run, "reward") == [(step, float(step)) for step in range(logged + 5)]


def wait_for(condition: Callable[[], bool], seconds: float = 180.0) -> bool:
    """Whether `condition` comes true; a run or a server that is not there yet counts as not true."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            if condition():
                return True
        except (KeyError, AssertionError, OSError):
            pass
        time.sleep(0.3)
    return False
