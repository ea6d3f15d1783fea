"""One process at a time for a job: two trainings of one run would overwrite each other's saved state and results."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.errors import InputError


@contextmanager
def only_one(path: Path, job: str, first: bool = True) -> Iterator[None]:
    """Hold the lock at `path` while the block runs; the operating system releases it with the process, however that
    ends. Only the `first` of several processes of one job holds it.

    Raises InputError where another process holds it. A file system without locks, or that cannot be written, is no
    reason to stop: the block then runs without.
    """
    held = _lock(path, job) if first else None
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                path.unlink()
            os.close(held)


def _lock(path: Path, job: str) -> int | None:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(held, 200).decode(errors="replace").strip() or "another process"
            os.close(held)
            raise InputError(
                f"{job}: in use: {who} is at work on this job ({path}); wait until it has ended, or stop it"
            ) from None
        except OSError:
            os.close(held)
            return None
        if _is_at(held, path):
            with suppress(OSError):  # a full disk: locked all the same
                os.ftruncate(held, 0)
                os.pwrite(held, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            return held
        os.close(held)  # the process that held it took the file away in between


def _is_at(held: int, path: Path) -> bool:
    try:
        return os.fstat(held).st_ino == path.stat().st_ino
    except OSError:
        return False
