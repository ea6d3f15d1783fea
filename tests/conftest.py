"""What holds for every test."""

from __future__ import annotations

import os


def pytest_configure() -> None:
    """Stages keep their records but leave MLflow alone, which would cost seconds a job and fill the store of the user."""
    os.environ.setdefault("LINEAGE", "off")
