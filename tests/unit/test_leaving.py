"""How the process of a job ends: what must still happen does, and nothing is taken apart."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.runtime import run_stage

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import atexit, sys, threading, time
from stages.errors import InputError
from stages.runtime import run_and_leave

class Taken:
    def __del__(self):
        print("taken apart")

taken = Taken()
atexit.register(print, "atexit")

def main():
    print("main", end=" ")
    {}

if __name__ == "__main__":
    run_and_leave(main)
    print("after")
"""


def ended(statement: str) -> subprocess.CompletedProcess[str]:
    """The program with one more statement in its `main`."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_job_writes_what_it_printed_and_calls_what_atexit_holds() -> None:
    done = ended("sys.stderr.write('said')")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["main", "atexit"], "said")


def test_a_thread_at_work_is_waited_for() -> None:
    thread = "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()"
    done = ended(thread)
    assert done.returncode == 0
    assert [word for word in done.stdout.split() if word in ("thread", "atexit")] == ["thread", "atexit"]


def test_a_daemon_is_not_waited_for() -> None:
    began = time.monotonic()
    done = ended("threading.Thread(target=time.sleep, args=(300,), daemon=True).start()")
    assert done.stdout.split() == ["main", "atexit"] and time.monotonic() - began < 100


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("raise InputError('no such study')", 2, "error: no such study\n"),
        ("raise KeyboardInterrupt", 130, "stopped by SIGINT; the same command goes on from the last saved state\n"),
        ("raise ValueError('a fault')", 1, "ValueError: a fault\n"),
        ("sys.exit(3)", 3, ""),
    ],
)
def test_a_job_that_fails_ends_with_its_code(statement: str, code: int, said: str) -> None:
    done = ended(statement)
    assert done.returncode == code and done.stderr.endswith(said) and "after" not in done.stdout


def test_an_output_that_nobody_reads_is_no_success() -> None:
    shell = f'{sys.executable} -c "$PROGRAM" | true; exit ${{PIPESTATUS[0]}}'
    program = PROGRAM.format("time.sleep(0.3)")
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, env={"PROGRAM": program}, capture_output=True, text=True)
    assert done.returncode and "BrokenPipeError" in done.stderr


def test_each_stage_leaves_so() -> None:
    stages = sorted((ROOT / "stages").glob("*/__main__.py"))
    assert len(stages) > 15
    slow = [path.parent.name for path in stages if not path.read_text().endswith("\n    run_and_leave(main)\n")]
    assert not slow


def test_a_stage_seldom_searches_the_oldest_objects() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        run_stage(lambda: None)
        assert gc.get_threshold() == (700, 10, 200)
    finally:
        gc.set_threshold(*before)
