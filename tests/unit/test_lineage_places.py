"""A clone with its own MLflow store can be moved and copied: artifacts go to, and are read from, its own `mlruns`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages.lineage.store import Store, connect

mlflow = pytest.importorskip("mlflow")
if TYPE_CHECKING:
    from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_store_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


JOB = """
import sys
from pathlib import Path
import mlflow
from stages.lineage.store import Store, connect
to = connect(Store.configured(Path.cwd() / "out/toy/lineage"), "toy")
run = to.client.create_run(to.experiment).info.run_id
Path("page.txt").write_text(sys.argv[1])
to.client.log_artifact(run, "page.txt")
model = mlflow.create_external_model(name="model", source_run_id=run, experiment_id=to.experiment)
assert model.artifact_location.startswith("mlruns/"), model.artifact_location
Path("run.txt").write_text(run)
"""


def log(root: Path, text: str) -> str:
    """A run with one artifact of that text and one model, made by a job in the clone at `root`; its id."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", JOB, text], cwd=root, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return (root / "run.txt").read_text()


def shown(root: Path, monkeypatch: pytest.MonkeyPatch, run: str) -> str:
    """The artifact of a run as a client in the clone at `root` reads it."""
    monkeypatch.chdir(root)
    return Path(client(root).download_artifacts(run, "page.txt")).read_text()


def client(root: Path) -> MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")


def artifacts(root: Path) -> dict[Path, str]:
    return {file.relative_to(root): file.read_text() for file in (root / "mlruns").rglob("page.txt")}


def test_a_moved_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "moved here"
    old.mkdir()
    first = log(old, "first")
    old.rename(new)
    assert shown(new, monkeypatch, first) == "first"
    second = log(new, "second")
    assert not old.exists()
    assert sorted(artifacts(new).values()) == ["first", "second"]
    assert [shown(new, monkeypatch, run) for run in (first, second)] == ["first", "second"]


@pytest.mark.slow
def test_a_copied_clone_leaves_the_other_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    first = log(old, "first")
    shutil.copytree(old, new)
    before = artifacts(old)
    second = log(new, "second")
    assert artifacts(old) == before
    assert [shown(new, monkeypatch, run) for run in (first, second)] == ["first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize("with_artifacts", [True, False])
def test_a_store_with_absolute_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_artifacts: bool) -> None:
    """As stores of before have them, copied with or without the folder `mlruns`."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    first = log(old, "first")
    with sqlite3.connect(old / "mlflow.db") as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = '{old}/' || {column} WHERE {column} LIKE 'mlruns/%'")
    shutil.copytree(old, new, ignore=None if with_artifacts else shutil.ignore_patterns("mlruns"))
    before = artifacts(old)
    second = log(new, "second")
    assert artifacts(old) == before
    assert [shown(new, monkeypatch, run) for run in (first, second)] == ["first", "second"]
    place = client(new).get_run(first).info.artifact_uri
    assert place is not None
    assert place.startswith("mlruns/") if with_artifacts else place.startswith(f"{old}/mlruns/")


def test_a_store_elsewhere_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be used from several working directories."""
    shared, work = tmp_path / "shared", tmp_path / "work"
    shared.mkdir()
    work.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}/mlflow.db")
    monkeypatch.chdir(work)
    to = connect(Store.configured(work / "out/toy/lineage"), "toy")
    place = to.client.get_experiment(to.experiment).artifact_location
    assert Path(place.removeprefix("file://")).is_absolute()
