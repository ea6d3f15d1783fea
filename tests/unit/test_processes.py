"""A job in several processes: what is shared out and added up, how they are started and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stages.errors import InputError
from stages.processes import ALONE, Processes, wanted
from tests.together import together

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import os, pathlib, signal, sys, time
from stages.processes import spread
spread("job", sys.argv[1:])
rank, what = int(os.environ.get("RANK", 0)), sys.argv[1]
print(f"rank {rank} of {os.environ.get('WORLD_SIZE', 1)}", flush=True)
"""


def started(folder: Path, body: str, count: int = 3) -> subprocess.Popen[str]:
    """A module `job` that spreads itself, running with PROCESSES=`count`."""
    (folder / "job.py").write_text(MODULE + body)
    own = {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PROCESSES": str(count), "OMP_NUM_THREADS": "6"}
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")} | own
    return subprocess.Popen(
        [sys.executable, "-m", "job", "argument"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_job_spreads_itself(tmp_path: Path) -> None:
    """Every process gets the arguments and its part of the cores; the first one alone is heard."""
    job = started(tmp_path, "pathlib.Path(f'{rank}.txt').write_text(f\"{what} {os.environ['OMP_NUM_THREADS']}\")\n")
    out, err = job.communicate(timeout=60)
    assert (job.returncode, out, err) == (0, "rank 0 of 3\n", "job: 3 processes\n")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(3)] == ["argument 2"] * 3


def test_one_process_is_the_job_itself(tmp_path: Path) -> None:
    out, err = started(tmp_path, "", count=1).communicate(timeout=60)
    assert (out, err) == ("rank 0 of 1\n", "")


def test_a_process_that_fails_ends_the_job_with_its_exit_code(tmp_path: Path) -> None:
    body = "if rank == 2:\n    print('error: third', file=sys.stderr)\n    sys.exit(2)\n"
    job = started(tmp_path, body + "if rank == 1: time.sleep(60)\n")
    began = time.monotonic()
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2
    assert err.splitlines()[-1] == "error: third"
    assert time.monotonic() - began < 30


def test_a_mistake_that_all_make_is_told_once(tmp_path: Path) -> None:
    job = started(tmp_path, "print('error: all', file=sys.stderr)\nsys.exit(2)\n")
    _, err = job.communicate(timeout=60)
    assert (job.returncode, err.count("error: all")) == (2, 1)


def test_a_signal_reaches_the_first_process_and_ends_all(tmp_path: Path) -> None:
    body = (
        "def stop(number, frame):\n    print('saved', flush=True)\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop if rank == 0 else signal.SIG_IGN)\n"
        "pathlib.Path(f'{rank}.pid').write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    job = started(tmp_path, body)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("*.pid"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=60)
    assert (job.returncode, out.splitlines()[-1]) == (143, "saved")
    assert not any(Path(f"/proc/{pid.read_text()}").exists() for pid in tmp_path.glob("*.pid"))


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"PROCESSES": "4"}, 4),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "7"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_ID": "7"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "7", "PROCESSES": "1"}, 1),
    ],
)
def test_how_many_processes(environment: dict[str, str], count: int) -> None:
    assert wanted(environment) == count


def test_a_wrong_number_of_processes_is_refused() -> None:
    for given in ("0", "two", "-1"):
        with pytest.raises(InputError, match=f"PROCESSES: '{given}' is not a number of processes"):
            wanted({"PROCESSES": given})


def test_rows_are_shared_out_evenly() -> None:
    assert [list(Processes(rank, 3).rows(6, "x")) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert list(ALONE.rows(5, "x")) == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="x: 4 images do not divide evenly among 3 processes"):
        Processes(0, 3).rows(4, "x")


def exchange(processes: Processes) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]], list[int]]:
    """Means of tensors of two kinds, and seven items made in turns."""
    tensors = [torch.full((2, 3), float(processes.rank)), torch.tensor(processes.rank, dtype=torch.float64)]
    processes.mean(tensors)
    made: list[int] = []

    def make(item: int) -> dict[str, torch.Tensor]:
        made.append(item)
        return {"square": torch.tensor(item**2)}

    at = processes.turns(range(10, 17), make)
    units = [at(place) for place in range(7)]
    processes.wait()
    return tensors, units, made


@pytest.mark.parametrize("count", [2, 3])
def test_means_and_turns(count: int) -> None:
    found = together(count, exchange)
    for tensors, _, _ in found:
        assert torch.equal(tensors[0], torch.full((2, 3), (count - 1) / 2))
        assert tensors[1].dtype == torch.float64
        assert float(tensors[1]) == (count - 1) / 2
    assert [int(unit["square"]) for unit in found[0][1]] == [item**2 for item in range(10, 17)]
    assert all(unit == {} for _, units, _ in found[1:] for unit in units)
    assert [made for _, _, made in found] == [list(range(10, 17))[rank::count] for rank in range(count)]


def test_one_process_makes_everything() -> None:
    tensors, units, made = exchange(ALONE)
    assert torch.equal(tensors[0], torch.zeros(2, 3))
    assert [int(unit["square"]) for unit in units] == [item**2 for item in made]
