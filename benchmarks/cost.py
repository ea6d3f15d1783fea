"""What a command costs: seconds, processor time and memory, and how they grow with the rows it works on."""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CORES = 2


@dataclass(frozen=True)
class Used:
    """What one process, with those it waited for, used: seconds by the clock, of the processors, most memory."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Cost(Used):
    """The same of `rows` rows of `what`."""

    what: str
    rows: int


def run(command: Sequence[str], log: Path, folder: Path | None = None, cpu_limit: int | None = None) -> Used:
    """Run `command` on `CORES` cores, in `folder`, and give it up after `cpu_limit` seconds of the processor.

    Raises SystemExit with the end of what it printed, which stands in `log`, where it fails.
    """
    environment = os.environ | {"LINEAGE": "off", "OMP_NUM_THREADS": str(CORES)}
    began, pid = time.monotonic(), os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
            if cpu_limit is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, cpu_limit))
            target = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.chdir(folder or Path())
            os.execve(command[0], list(command), environment)
        finally:
            os._exit(127)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - began
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise SystemExit(f"error: {' '.join(command)}: exit code {code}\n{log.read_text()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Used(round(seconds, 2), round(cpu, 2), round(usage.ru_maxrss / 1024, 1))


def power(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The power of the size with which seconds grow, by least squares of their logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    return round(float(np.polyfit(x, y, 1)[0]), 3)


def exponents(costs: Sequence[Cost]) -> dict[str, float]:
    """The power of the number of rows with which costs grow: over all sizes, and over the two largest alone.

    The time that a process takes to start makes the first too small; the second shows growth at size.
    """
    if len(costs) < 2:
        return {}
    costs = sorted(costs, key=lambda cost: cost.rows)
    rows, seconds = [cost.rows for cost in costs], [cost.cpu_seconds for cost in costs]
    return {
        "CPU seconds": power(rows, seconds),
        "CPU seconds between the two largest sizes": power(rows[-2:], seconds[-2:]),
    }
