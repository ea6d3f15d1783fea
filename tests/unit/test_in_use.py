"""Two processes never work on one job of a study at the same time; Ctrl-C ends a stage in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.errors import InputError
from stages.in_use import only_one

HOLD = """
import signal, sys, time
from pathlib import Path
from stages.in_use import only_one
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background ignores it
with only_one(Path(sys.argv[1]), "finetune refl-s0"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / ".state" / "finetune-refl-s0.lock"


def holder(lock: Path) -> subprocess.Popen[str]:
    made = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert made.stdout and made.stdout.readline() == "held\n"
    return made


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_job_is_in_use_until_its_process_ends_however_that_is(lock: Path, number: int):
    other = holder(lock)
    with pytest.raises(InputError) as found, only_one(lock, "finetune refl-s0"):
        pass
    assert f"finetune refl-s0: in use: process {other.pid} on " in str(found.value)
    assert "\n" not in str(found.value)
    other.send_signal(number)
    other.wait(timeout=60)
    with only_one(lock, "finetune refl-s0"):
        assert lock.exists()
    assert not lock.exists()


def test_other_jobs_and_other_processes_of_one_job_are_not_kept_out(lock: Path):
    with only_one(lock, "finetune a"), only_one(lock.with_name("other.lock"), "finetune b"), only_one(lock, "a", False):
        pass
    (lock.parent / "saved").mkdir(parents=True)
    with only_one(lock, "finetune a"):
        pass
    assert [path.name for path in lock.parent.iterdir()] == ["saved"]


def test_a_failed_job_lets_the_next_one_in(lock: Path):
    with pytest.raises(ValueError), only_one(lock, "finetune a"):
        raise ValueError
    with only_one(lock, "finetune a"):
        pass


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with only_one(tmp_path / "file" / "x.lock", "finetune a"):
        pass


def test_one_of_many_at_a_time(lock: Path, tmp_path: Path):
    """Processes that come and go: no two are ever inside."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom stages.errors import InputError\n"
        "from stages.in_use import only_one\nend = time.time() + 2\nwhile time.time() < end:\n"
        "    try:\n        with only_one(Path(sys.argv[1]), 'a'):\n"
        "            inside = Path(sys.argv[2])\n            inside.mkdir()\n            inside.rmdir()\n"
        "    except InputError:\n        pass\n"
    )
    many = [
        subprocess.Popen([sys.executable, "-c", script, str(lock), str(tmp_path / "inside")], env=dict(os.environ))
        for _ in range(3)
    ]
    assert [one.wait(timeout=120) for one in many] == [0, 0, 0]


STAGE = """
import time
from stages.runtime import run_stage
def main():
    print("runs", flush=True)
    time.sleep(600)
run_stage(main)
"""


def test_ctrl_c_ends_a_stage_in_one_line():
    """The usual signals of Python, also where whoever starts the tests ignores SIGINT."""
    script = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + STAGE
    stage = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert stage.stdout and stage.stdout.readline() == "runs\n"
    stage.send_signal(signal.SIGINT)
    _, said = stage.communicate(timeout=60)
    assert stage.returncode == 130
    assert said.splitlines() == ["stopped by SIGINT; the same command goes on from the last saved state"]
