"""The files below a folder from outside: links are followed, and what is not a file to read is said with its reason."""

from __future__ import annotations

import glob
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode of a folder: the same whatever name it is reached by."""

HIDDEN, DANGLING, SPECIAL = "hidden", "a link to nothing", "neither a file nor a folder"
CYCLE, AGAIN = "a link to a folder that it lies in", "a link to a folder that is read already"


@dataclass(frozen=True)
class Unread:
    """A file, folder or link that is not read."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """What lies below a folder: `files` in the order of their paths, and what is not read."""

    files: list[Path] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)


@dataclass(frozen=True)
class _Folder:
    """A folder to read, those above it on its path, and whether a link leads to it."""

    path: Path
    above: frozenset[Identity] = frozenset()
    linked: bool = False


def files(root: Path) -> list[Path]:
    """The files below `root` in the order of their paths; names that begin with a dot are left out."""
    return search(root).files


def search(root: Path) -> Found:
    """Everything below `root`. Names that begin with a dot are hidden; of a hidden folder nothing is read.

    A link to a folder is followed, except to one that it lies in; and where a followed link leads to further links,
    those to folders that were read before are not followed again. So every folder is read, and the search ends.
    """
    found, read = Found(), set[Identity]()
    waiting = [_Folder(root)]
    while waiting:
        folder = waiting.pop()
        try:
            own = _identity(folder.path.stat())
            with os.scandir(folder.path) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            found.unread.append(Unread(folder.path, f"a folder that cannot be read: {error.strerror}"))
            continue
        read.add(own)
        above = folder.above | {own}
        below = []
        for path in (folder.path / name for name in names):
            status, linked = _status(path), path.is_symlink()
            if path.name.startswith("."):
                found.unread.append(Unread(path, HIDDEN))
            elif status is None:
                found.unread.append(Unread(path, DANGLING if linked else SPECIAL))
            elif stat.S_ISDIR(status.st_mode):
                reason = _again(_identity(status), above, read if linked and folder.linked else frozenset())
                if reason:
                    found.unread.append(Unread(path, reason))
                else:
                    below.append(_Folder(path, above, folder.linked or linked))
            elif stat.S_ISREG(status.st_mode):
                found.files.append(path)
            else:
                found.unread.append(Unread(path, SPECIAL))
        waiting += reversed(below)
    found.files.sort()
    found.unread.sort(key=lambda each: each.path)
    return found


def matching(pattern: str) -> list[Path]:
    """The files that a pattern such as `data/*.parquet` names, in the order of their paths."""
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())


def _again(own: Identity, above: frozenset[Identity], read: set[Identity] | frozenset[Identity]) -> str:
    """Why a folder is not entered; empty for one that is."""
    return CYCLE if own in above else AGAIN if own in read else ""


def _status(path: Path) -> os.stat_result | None:
    """What a path leads to; None for a link that leads nowhere, or round and round."""
    try:
        return path.stat()
    except OSError:
        return None


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
