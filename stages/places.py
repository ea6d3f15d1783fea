"""Files and folders that a study names: whether there is one, and if not, why. Torch-free."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from stages import walk

LONGEST = 255
"""Bytes of a name in most file systems."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def missing(place: str, what: str, pattern: bool = False) -> str:
    """What is wrong with a place where there is no file or folder: `no such folder`, with a hint where the name shows
    why. Empty where there is one or, with `pattern`, files that match.
    """
    if (found := _status(place)) is not None:
        plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        return "" if plain else f"is {walk.SPECIAL}"  # a pipe would be waited for without end
    if pattern and walk.matching(place):
        return ""
    if _ADDRESS.match(place):
        return "is an address; nothing is fetched from there: download it, and name the file or folder"
    said = f"no such {what}"
    if place.startswith("~") or "$" in place:
        return f"{said}; `~` and variables of the shell mean nothing here, write the path out"
    if place != place.strip():
        return f"{said}; the name begins or ends with a blank"
    if any(len(os.fsencode(part)) > LONGEST for part in Path(place).parts):
        return f"{said}: longer than a name of a file can be"
    return f"{said}: a link to nothing" if "\0" not in place and Path(place).is_symlink() else said


def real(place: str | Path) -> Path:
    """The path without links, as far as it can be followed; links that go round in circles, at which `Path.resolve`
    raises, and null characters, are met only when it is opened.
    """
    return Path(os.path.realpath(place)) if "\0" not in str(place) else Path(place)


def is_folder(place: str | Path) -> bool:
    """Whether there is a folder; False, too, where there can be none of that name."""
    return _status(place) is not None and Path(place).is_dir()


def _status(place: str | Path) -> os.stat_result | None:
    try:
        return Path(place).stat()
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return None
