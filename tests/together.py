"""Several processes for a test: forked, connected by gloo, each a function's call."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from stages.processes import Processes, joined

PATIENCE = 400.0
"""Seconds for all processes; a lost one would keep the others waiting."""


def together(count: int, function: Callable[[Processes], Any]) -> list[Any]:
    """What `function` returns in each of `count` processes, by rank; raises AssertionError where one of them fails."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    workers = [
        context.Process(target=_run, args=(rank, count, port, function, pipes[rank][1])) for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    found = [pickle.loads(pipe.recv_bytes()) if pipe.poll(PATIENCE) else ("failed", "no answer") for pipe, _ in pipes]
    for worker in workers:
        worker.join(5)
        worker.kill()
    failures = [f"process {rank}: {value}" for rank, (how, value) in enumerate(found) if how == "failed"]
    assert not failures, "\n".join(failures)
    return [value for _, value in found]


def _run(rank: int, count: int, port: int, function: Callable[[Processes], Any], answer: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    try:
        with joined() as processes:
            answer.send_bytes(pickle.dumps(("done", function(processes))))  # by value: tensors too
    except BaseException:
        answer.send_bytes(pickle.dumps(("failed", traceback.format_exc())))
