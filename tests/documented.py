"""Methods whose code stands in docs/add-a-method.md."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "add-a-method.md"


def shown(name: str) -> tuple[str, str]:
    """The module that the page puts into the folder of methods under that name, and the study's entries for it."""
    wanted = rf"`stages/finetune/methods/{name}\.py`:\n\n```python\n(.*?)```.*?```yaml\n(.*?)```"
    found = re.search(wanted, PAGE.read_text(), re.DOTALL)
    assert found, name
    return found[1], found[2]
