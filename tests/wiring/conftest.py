"""The study in miniature, made once for all tests."""

from __future__ import annotations

import pytest

from tests.wiring.mini import Mini, write


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    """A study whose results are made when they are asked for."""
    return write(tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="session")
def mini(parts: Mini) -> Mini:
    """The finished study."""
    parts.make("report")
    return parts
