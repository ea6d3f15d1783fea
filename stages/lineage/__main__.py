"""Bring MLflow up to date with the records of a study, for jobs that ran while the store was away.

python -m stages.lineage out/shapes/lineage
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stages.errors import InputError
from stages.lineage.process import watch
from stages.lineage.record import RUNNING, Record, read_records
from stages.runtime import run_and_leave


def main() -> None:
    """Parse the command line and mirror the records it names."""
    parser = argparse.ArgumentParser(prog="python -m stages.lineage", description=__doc__)
    parser.add_argument("folder", type=Path, help="the records of one study, out/<study>/lineage")
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        watch(arguments.folder)
        return
    records = [record for record in read_records(arguments.folder) if record.status != RUNNING]
    if not records:
        raise InputError(f"{arguments.folder}: no finished lineage records here (expected out/<study>/lineage)")
    send(records)
    print(f"{len(records)} records of study {records[0].study} are in MLflow")


def send(records: list[Record]) -> None:
    """Mirror finished records of one study, oldest first. Raises InputError when the store cannot be used."""
    from stages.lineage.mirror import Mirror
    from stages.lineage.store import Store, connect

    store = Store.configured(Path(records[0].folder))
    try:
        connection = connect(store, records[0].study)
        for record in records:
            Mirror(connection, record).update(record)
    except Exception as error:
        raise InputError(f"MLflow at {store.uri}: {' '.join(str(error).split())[:300]}") from None


if __name__ == "__main__":
    run_and_leave(main)
