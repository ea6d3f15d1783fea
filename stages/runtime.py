"""What every stage needs of the machine: threads, device, whole-or-nothing files, progress, digests, the exit code."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stages.errors import InputError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; an InputError becomes one line on stderr and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name `path` only when the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def threads() -> int:
    """CPU threads this job may use: what the runner granted, else every core the process may run on."""
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0))


def device() -> torch.device:
    """The device of this job: CUDA when there is one, else the CPU with torch limited to `threads()`."""
    import torch

    torch.set_num_threads(threads())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_from(*parts: object) -> int:
    """A 63-bit seed that depends on the parts alone: the same on every machine, rank and batch size."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def progress(items: Iterable[T], total: int, name: str, every: float = 5.0) -> Iterator[T]:
    """Pass `items` through and print `name 12/100, 0.5 s each, 44 s left` on stderr every `every` seconds."""
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every or (done == total and last > start):
            each = (now - start) / done
            print(f"{name} {done}/{total}, {each:.2g} s each, {each * (total - done):.0f} s left", file=sys.stderr)
            last = now
