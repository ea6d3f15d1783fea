"""What holds for every test."""

from __future__ import annotations

import gc
import os

import pytest

LONGEST = (
    "tests/workflow/test_identities.py", "tests/workflow/test_reruns.py",
    "tests/faults/test_bad_input.py", "tests/stages/finetune/test_contract.py", "tests/workflow/test_graph.py",
    "tests/faults/test_scorer.py", "tests/stages/audit/test_documents.py", "tests/stages/test_search.py",
    "tests/stages/report/test_report.py", "tests/workflow/test_study.py",
)  # fmt: skip
"""Files that take longest, which begin first: a whole file is run by one process, and the last one is waited for."""


def pytest_configure() -> None:
    """Stages keep their records but leave MLflow alone: it costs seconds per job, and the store is the user's.

    Importing every file makes millions of objects that stay: looking for garbage among them takes a third of the time.
    """
    os.environ.setdefault("LINEAGE", "off")
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on garbage is collected, but not looked for among what was imported."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Libraries that count their objects at the end of a process find theirs collected."""
    gc.unfreeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse names that differ from process to process: tests in several processes could not be shared out. Put the
    longest files first.
    """
    odd = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if odd:
        raise pytest.UsageError(f"give these cases names (`ids`), theirs hold addresses: {', '.join(odd)}")
    if lost := [file for file in LONGEST if not (config.rootpath / file).is_file()]:
        raise pytest.UsageError(f"tests/conftest.py: LONGEST: there is no {', '.join(lost)}")
    place = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONGEST)))
