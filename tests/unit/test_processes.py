"""A job in several processes: what is shared out and added up, how they are started and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from stages import resume
from stages.errors import InputError, Stopped
from stages.processes import ALONE, Processes, wanted
from stages.runtime import run_stage
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


def rows_of_all(processes: Processes) -> tuple[list[torch.Tensor], list[str], int]:
    """Tensors of several kinds, texts and a number, of all processes."""
    own = torch.arange(3) + 3 * processes.rank
    tensors = [own, own.reshape(1, 3, 1).double() / 7, own % 2 == 0, own.bfloat16()]
    found = [*processes.whole(tensors[:1] + tensors[2:]), *processes.whole([tensors[1]], dim=1)]
    return found, processes.everyone([f"text {n}" for n in own.tolist()]), processes.largest(10 - processes.rank)


def test_rows_of_all_processes_by_rank() -> None:
    expected = torch.arange(6)
    for (whole, even, half, third), texts, largest in together(2, rows_of_all):
        assert torch.equal(whole, expected)
        assert torch.equal(even, expected % 2 == 0)
        assert torch.equal(half, expected.bfloat16())
        assert torch.equal(third, expected.reshape(1, 6, 1).double() / 7)
        assert texts == [f"text {n}" for n in range(6)]
        assert largest == 10
    assert rows_of_all(ALONE)[1:] == (["text 0", "text 1", "text 2"], 10)
    assert [Processes(rank, 2).part(6) for rank in range(2)] == [slice(0, 3), slice(3, 6)]
    with pytest.raises(ValueError, match="5 rows do not divide evenly among 2"):
        Processes(0, 2).part(5)


Told = dict[int, tuple[int, int]]
"""By rank: the step in which a process gets a signal, and its number."""


def stopping(folder: Path, told: Told, processes: Processes) -> tuple[list[int], object]:
    """Steps of a job that is told to stop, and its exit code."""
    steps: list[int] = []

    def job() -> None:
        study, output = folder / "params.yaml", folder / "weights"
        with resume.keep(study, "encode", "name", output, {}, [], processes) as state:
            for step in range(1, 7):
                if told.get(processes.rank, (0, 0))[0] == step:
                    os.kill(os.getpid(), told[processes.rank][1])
                steps.append(step)
                state.offer("run", lambda step=step: {"step": step})

    with pytest.raises(SystemExit) as ended:
        run_stage(job)
    return steps, ended.value.code


@pytest.mark.parametrize(
    ("told", "last", "code"),
    [
        ({1: (3, signal.SIGTERM), 0: (5, signal.SIGTERM)}, 3, 143),
        ({0: (2, signal.SIGUSR1)}, 2, 138),
    ],
)
def test_all_stop_at_the_same_step(tmp_path: Path, told: Told, last: int, code: int) -> None:
    """Whichever process is told first; the state is that of the step, and each has the exit code of one process."""
    (tmp_path / "params.yaml").write_text("study: {name: made up}\n")
    for steps, ended in together(2, partial(stopping, tmp_path, told)):
        assert steps == list(range(1, last + 1))
        assert ended == code
    (saved,) = tmp_path.rglob("run.pt")
    assert torch.load(saved, weights_only=True) == {"step": last}


def halfway(folder: Path, processes: Processes) -> int:
    """How many results there are when the second process is told to stop while it makes the second turn."""
    state, count = resume.State(folder, processes=processes), 0

    def make(item: int) -> dict[str, torch.Tensor]:
        if item == 3:
            state.told = 15
        return {"square": torch.tensor(item**2)}

    with pytest.raises(Stopped):
        for _ in state.results("some", range(8), processes.turns(range(8), make)):
            count += 1
    return count


def test_results_end_together_and_are_kept(tmp_path: Path) -> None:
    assert together(2, partial(halfway, tmp_path / "state")) == [2, 2]
    kept = resume.State(tmp_path / "state").results("some", range(8), lambda item: {"square": torch.tensor(-1)})
    assert [int(unit["square"]) for unit in kept] == [0, 1, 4, -1, -1, -1, -1, -1]
