"""What holds for every test."""

from __future__ import annotations

import os


def pytest_configure() -> None:
    """Stages keep their records but leave MLflow alone: it costs seconds per job, and the store is the user's."""
    os.environ.setdefault("LINEAGE", "off")
