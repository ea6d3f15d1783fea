"""Where MLflow keeps the runs, and how several jobs open that place at once.

`MLFLOW_TRACKING_URI` decides; without it the store is `mlflow.db` in the working directory, where a bare `mlflow ui`
finds it, with artifacts in `mlruns/`. MLflow is imported here and in the modules that take a `Connection`, nowhere
else, and only in the mirror process.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from stages.lineage.places import make_relative

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

OWN = "mlflow.db"
"""The store in the working directory that is used where none is named."""

QUICK = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What MLflow is told unless the environment says otherwise: give up soon, call nobody else."""


@dataclass(frozen=True)
class Store:
    """A tracking store; `workspace` tells apart studies of several people in it, empty in a store of one's own."""

    uri: str
    lock: Path
    workspace: str

    @classmethod
    def configured(cls, folder: Path) -> Store:
        """The store for the study whose records stand in `folder`."""
        own = f"sqlite:///{Path.cwd() / OWN}"
        uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or own
        file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else folder / "mlflow"
        workspace = "" if uri == own else f"{user()}@{folder.parent}"
        return cls(uri, file.with_name(f"{file.name}.lock").absolute(), workspace)

    @property
    def own(self) -> Path | None:
        """The database of a store in the working directory, None for one elsewhere."""
        file = Path.cwd() / OWN
        return file if self.uri == f"sqlite:///{file}" else None

    @property
    def patience(self) -> float:
        """Seconds that a job which is done waits for this store at most: a server may hang, a file is only slow."""
        return 45.0 if urlsplit(self.uri).scheme in ("http", "https") else 120.0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store against the other jobs on this machine or disk; TimeoutError when it does not come free."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        patience = 0.8 * self.patience
        give_up = time.monotonic() + patience
        with open(self.lock, "a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise TimeoutError(f"{self.lock} was held by another process for {patience:.0f} s") from None
                    time.sleep(0.05)
            yield


@dataclass(frozen=True)
class Connection:
    """An open store and the experiment of one study in it."""

    client: MlflowClient
    store: Store
    experiment: str
    """The experiment's id, given with every call: MLflow's notion of an active experiment races between processes."""

    def alone(self, change: Callable[[], T]) -> T:
        """Make a change to what the jobs of a study share: the experiment's tags, datasets of the same name.

        MLflow looks whether such a row exists and then writes it; of two jobs that do so at once one fails. The lock
        keeps jobs that see the same files apart, and a job elsewhere that was faster is noticed by trying once more.
        `change` is therefore one that may be made twice. Raises what it raises the second time.
        """
        from mlflow.exceptions import MlflowException

        with self.store.locked():
            try:
                return change()
            except MlflowException:
                time.sleep(0.2)
                return change()


def connect(store: Store, study: str) -> Connection:
    """Open the store; the database and the experiment are made if need be, by one job at a time.

    Raises whatever MLflow, SQLAlchemy or the network raise, OSError for a server that does not answer.
    """
    _answers(store.uri)
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
    import mlflow

    mlflow.set_tracking_uri(store.uri)
    with store.locked():
        client = mlflow.MlflowClient(store.uri)
        experiment = _experiment(client, study)
        if store.own is not None:
            make_relative(store.own)
        return Connection(client, store, experiment)


def _experiment(client: MlflowClient, study: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(study)
    if found is None:
        try:
            # The kind keeps the page from asking; see docs/lineage.md for the link that opens the table of runs.
            return client.create_experiment(study, tags={"mlflow.experimentKind": "custom_model_development"})
        except MlflowException:  # somebody on another machine was faster
            found = client.get_experiment_by_name(study)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _answers(uri: str, patience: float = 3.0) -> None:
    """Raise OSError soon when no server listens at `uri`; databases and servers behind a proxy are not asked."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=patience).close()
    except OSError as error:
        raise OSError(f"no server answers at {parts.hostname}:{port}: {error}") from None


def user() -> str:
    """Name of who runs this, a number where nobody has given one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
