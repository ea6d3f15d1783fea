"""The study in miniature, run once for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.wiring.mini import Mini, run, write


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    """A finished study; the working directory is its root while it runs."""
    root = tmp_path_factory.mktemp("mini")
    made, before = write(root), Path.cwd()
    os.chdir(root)
    try:
        run(made)
    finally:
        os.chdir(before)
    return made
