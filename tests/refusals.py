"""What is said of a study that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.errors import InputError
from stages.study import load


def said_of(content: dict[str, Any], folder: Path) -> str:
    """The one line for a study file of this content, which is written into `folder`."""
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as found:
        load(folder / "study.yaml")
    assert "\n" not in str(found.value)
    return str(found.value)
