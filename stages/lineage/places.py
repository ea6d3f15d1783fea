"""Places of artifacts in a store of one's own, kept relative to the working directory so that a clone can be moved.

MLflow writes absolute paths into its database: of the experiment (where new runs will have their artifacts), of every
run and of every model. A clone that was moved or copied would go on writing into the old one. MLflow reads a relative
path from the working directory, which is the root of the clone for `mlflow ui` as for every job.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

FOLDER = "mlruns"
PLACES = (
    ("experiments", "experiment_id", "artifact_location"),
    ("runs", "run_uuid", "artifact_uri"),
    ("logged_models", "model_id", "artifact_location"),
)
"""Tables of MLflow's database with a place: table, key, column."""


def make_relative(database: Path) -> None:
    """Rewrite the places in `database` that lie, or now lie, in `mlruns` beside it.

    Of an experiment always: that decides where new artifacts go. Of a run or model where its folder stands here; else
    its artifacts are where they were, in a clone that this one was copied from without them. Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        for table, key, column in PLACES:
            rows = connection.execute(f"SELECT {key}, {column} FROM {table} WHERE {column} LIKE ?", (f"%/{FOLDER}/%",))
            for name, place in rows.fetchall():
                here = FOLDER + place.rpartition(f"/{FOLDER}")[2]
                if table == "experiments" or (database.parent / here).is_dir():
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (here, name))
