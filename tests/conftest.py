"""What holds for every test."""

from __future__ import annotations

import os

import pytest


def pytest_configure() -> None:
    """Stages keep their records but leave MLflow alone: it costs seconds per job, and the store is the user's."""
    os.environ.setdefault("LINEAGE", "off")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that differ from process to process: tests in several processes could not be shared out."""
    odd = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if odd:
        raise pytest.UsageError(f"give these cases names (`ids`), theirs hold addresses: {', '.join(odd)}")
