"""Several processes for one job, a GPU each: who they are, what they share out and what they add up.

The processes are those of `torchrun` or `accelerate launch` (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the
environment), or the ones that a stage starts itself (`spread`): as many as PROCESSES says, else one for each GPU that
Slurm gave the job. Without any of it there is one process, and nothing in here does anything.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar

from stages.errors import InputError
from stages.runtime import threads

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Unit = dict[str, "Tensor"]
GRACE = 20.0
"""Seconds that the other processes have after one of them has ended badly or the job was told to stop."""


@dataclass(frozen=True)
class Processes:
    """This process among those of its job: `rank` from 0, `count` of them."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    def rows(self, count: int, where: str) -> range:
        """The rows of this process out of `count`, as many in each; raises InputError that starts with `where`."""
        if count % self.count:
            raise InputError(f"{where}: {count} images do not divide evenly among {self.count} processes")
        return range(count)[self.part(count)]

    def part(self, count: int) -> slice:
        """The rows of this process out of `count` of all; raises ValueError where they do not divide evenly."""
        if count % self.count:
            raise ValueError(f"{count} rows do not divide evenly among {self.count} processes")
        size = count // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, the same bits in all of them; one exchange per kind of
        number.
        """
        if self.count == 1:
            return
        import torch
        from torch import distributed

        kinds: dict[Any, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for same in kinds.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
            distributed.all_reduce(flat)
            flat /= self.count
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def whole(self, tensors: Sequence[Tensor], dim: int = 0) -> list[Tensor]:
        """Each tensor with the rows of all processes along `dim`, by rank, the same bits in all of them; every process
        gives tensors of the same shapes. In one exchange, without gradient.
        """
        if self.count == 1:
            return list(tensors)
        import torch
        from torch import distributed

        own = torch.cat([tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors])
        found = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(found, own)
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
        parts = zip(*(each.split(sizes) for each in found), strict=True)
        # a copy of each part: bytes can be seen as numbers only where they begin on a whole number
        return [
            torch.cat([part.clone().view(tensor.dtype).view(tensor.shape) for part in same], dim)
            for tensor, same in zip(tensors, parts, strict=True)
        ]

    def everyone(self, own: Sequence[T]) -> list[T]:
        """What all processes have, by rank; anything that can be pickled."""
        if self.count == 1:
            return list(own)
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, list(own))
        return [item for each in found for item in each]

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes give."""
        if self.count == 1:
            return number
        import torch
        from torch import distributed

        on_gpu = distributed.get_backend() == "nccl"
        found = torch.tensor(number, device="cuda" if on_gpu else "cpu")
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return int(found)

    def turns(self, work: Sequence[T], make: Callable[[T], Unit]) -> Callable[[int], Unit]:
        """A function that gives `make(work[place])`, to be called for places in order: in each turn every process makes
        one item, and the first process gets them all; the others get empty ones.
        """
        made: dict[int, Unit] = {}

        def at(place: int) -> Unit:
            if self.count == 1:
                return make(work[place])
            if place not in made:
                turn = work[place : place + self.count]
                units = self._gather(make(turn[self.rank]) if self.rank < len(turn) else {})
                made.update({place + n: units[n] if self.first else {} for n in range(len(turn))})
            return made.pop(place)

        return at

    def _gather(self, own: Unit) -> list[Unit]:
        """What every process has, by rank, in the first process; nothing in the others."""
        from torch import distributed

        units: list[Any] | None = [None] * self.count if self.first else None
        distributed.gather_object(own, units)
        return units or []

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier()


ALONE = Processes()


def _number(name: str, otherwise: int) -> int:
    """What the launcher of several processes says in the environment."""
    text = os.environ.get(name) or str(otherwise)
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{name}: {text!r} is not a number; torchrun and accelerate set it")
    return int(text)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this job, connected; each has its own GPU where there are any (NCCL), else the CPU (gloo)."""
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    local = _number("LOCAL_RANK", 0)
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise InputError(f"{count} processes, but only {torch.cuda.device_count()} GPUs on this machine")
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def wanted(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes this job should have; raises InputError for a PROCESSES that is no number."""
    given = environment.get("PROCESSES", "")
    if given:
        if not given.isdigit() or int(given) < 1:
            raise InputError(f"PROCESSES: {given!r} is not a number of processes")
        return int(given)
    if environment.get("SLURM_JOB_ID") and environment.get("CUDA_VISIBLE_DEVICES"):
        return len(environment["CUDA_VISIBLE_DEVICES"].split(","))
    return 1


def spread(module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module arguments` in as many processes as wanted and exit with the exit code of the job.

    Returns at once where one is enough, or where this is one of several already. What is printed comes from the first
    process, and from the one that failed first; SIGTERM, SIGUSR1 and SIGINT reach the first process.
    """
    count = wanted()
    if count == 1 or os.environ.get("RANK"):
        return
    shared = {
        "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(max(1, threads() // count)),
    }  # fmt: skip
    print(f"{module}: {count} processes", file=sys.stderr, flush=True)
    workers: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        unheard: list[IO[bytes]] = [files.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        for rank in range(count):
            own = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            out = None if rank == 0 else unheard[rank]
            workers.append(
                subprocess.Popen([sys.executable, "-m", module, *arguments], env=own, stdout=out, stderr=out)
            )
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, lambda found, _: workers[0].send_signal(found))
        raise SystemExit(_watch(workers, unheard))


def _watch(workers: Sequence[subprocess.Popen[bytes]], unheard: Sequence[IO[bytes]]) -> int:
    """Wait for all workers; the first one that fails ends the others. Returns its exit code, 0 when all went well.

    `unheard` holds what each worker printed; what the first one printed is out already.
    """
    while True:
        codes = [worker.poll() for worker in workers]
        bad = next((rank for rank, code in enumerate(codes) if code), None)
        if bad is not None:
            break
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.1)
    patience = time.monotonic() + GRACE
    while bad and workers[0].poll() is None and time.monotonic() < patience:
        time.sleep(0.1)  # the first process notices that another is gone, and says what it was doing
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
    code = workers[bad].returncode
    if workers[0].returncode != code:
        unheard[bad].seek(0)
        sys.stderr.write(unheard[bad].read().decode(errors="replace")[-5000:])
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
