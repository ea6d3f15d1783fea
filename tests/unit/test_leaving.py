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


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_job_without_an_output_ends_well(closed: str) -> None:
    """As under a scheduler that gives a job no output: Python then has None in its place."""
    shell = f'{sys.executable} -c "$PROGRAM" {closed}'
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, env={"PROGRAM": PROGRAM.format("pass")}, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_so_does_one_that_closed_its_output(stream: str) -> None:
    command = [
        sys.executable,
        "-c",
        f"import sys; from stages.runtime import run_and_leave; run_and_leave(sys.{stream}.close)",
    ]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize(("mode", "content"), [("w", "'kept'"), ("wb", "b'kept'"), ("w+b", "b'kept'")])
def test_a_file_that_is_still_open_is_written(tmp_path: Path, mode: str, content: str) -> None:
    path = tmp_path / "log"
    done = ended(f"sys.kept = open({str(path)!r}, {mode!r}); sys.kept.write({content})")
    assert done.returncode == 0 and "taken apart" not in done.stdout
    assert path.read_bytes() == b"kept"


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The program, as module and file `job` in `cwd`, run by Python with `words`."""
    (cwd / "job.py").write_text(PROGRAM.format("pass"))
    environment = {"PYTHONPATH": f"{ROOT}:{cwd}"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("words", [("-m", "job"), ("job.py",)])
def test_a_module_of_its_own_process_is_not_taken_apart(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["main", "atexit"])


@pytest.mark.parametrize(
    "call", ["run_module('job', run_name='__main__', alter_sys=True)", "run_path('job.py', {}, '__main__')"]
)
def test_a_program_that_runs_a_job_goes_on(tmp_path: Path, call: str) -> None:
    done = run("-c", f"import runpy; runpy.{call}; print('caller')", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [word for word in done.stdout.split() if word in ("main", "caller", "atexit")] == [
        "main",
        "caller",
        "atexit",
    ]


def test_a_profile_of_a_job_is_written(tmp_path: Path) -> None:
    done = run("-m", "cProfile", "-o", "profile", "-m", "job", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "profile").stat().st_size


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
