"""The page of an earlier report and the numbers in it. Nothing of this is loaded with torch or pandas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stages.errors import InputError

PAGE = "index.html"
BLOCK = re.compile(r'<script type="application/json" id="x-data">(.*?)</script>', re.S)
NEEDED = ("study", "columns", "findings", "provenance")
"""What an earlier report is asked for; a page that was made before one of these was kept has none."""


def read(folder: Path, study: str, named: str) -> dict[str, Any]:
    """The JSON block of the page in `folder`; raises InputError that starts with `named` where there is no report, or
    one of another study than `study`.
    """
    path = folder / PAGE
    try:
        found = BLOCK.search(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{named}: {path}: {error.strerror}; expected the folder of an earlier report") from None
    except UnicodeDecodeError:
        found = None
    block = _parsed(found[1]) if found else None
    if block is None or any(name not in block for name in NEEDED):
        raise InputError(f"{named}: {path}: no page of a study with its numbers in it; expected an earlier report")
    if block["study"] != study:
        raise InputError(f"{named}: {folder}: a report of the study {block['study']!r}, expected one of {study!r}")
    return block


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
