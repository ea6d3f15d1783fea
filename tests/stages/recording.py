"""Jobs of a toy study, the records they leave, and its runs in the store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages.lineage.__main__ import send
from stages.lineage.record import read_records

mlflow = pytest.importorskip("mlflow")
if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STUDY = """
study: {name: toy, description: A made-up study, reward: proxy, heldout: heldout}
runs:
  refl-s0: {method: refl, seed: 0}
  imagerefl-s1: {method: imagerefl, seed: 1}
"""
OUT = Path("out/toy")
RECORDS = OUT / "lineage"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory with a study file; the store is the one in it, and jobs only write records."""
    root = tmp_path / "a study"  # a space in the path is part of the test
    root.mkdir()
    (root / "params.yaml").write_text(STUDY)
    monkeypatch.chdir(root)
    monkeypatch.setenv("LINEAGE", "off")
    for name in ("MLFLOW_TRACKING_URI", "RANK"):
        monkeypatch.delenv(name, raising=False)
    before = mlflow.get_tracking_uri()
    yield root
    mlflow.set_tracking_uri(before)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mirror() -> None:
    """Bring the store up to date with every record."""
    send(read_records(RECORDS))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs; making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store: Path, workspace: Path) -> MlflowClient:
    """The working directory's store, in which nothing has happened yet."""
    shutil.copy(empty_store, workspace / "mlflow.db")
    return client()


def client() -> MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def runs() -> dict[str, Run]:
    """The runs of the study by name; fails when two have the same name or one stands outside of the experiment."""
    store = client()
    experiment = store.get_experiment_by_name("toy")
    assert experiment is not None
    everywhere = [e.experiment_id for e in store.search_experiments()]
    found = store.search_runs(everywhere)
    assert {run.info.experiment_id for run in found} == {experiment.experiment_id}
    names = [str(run.info.run_name) for run in found]
    assert len(names) == len(set(names)), f"duplicates among {sorted(names)}"
    return dict(zip(names, found, strict=True))


def history(run: Run, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client().get_metric_history(run.info.run_id, metric)]
